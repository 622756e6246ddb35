"""Units removed from 1,000 random graphs: what differs from the masked graph, and whether the tensors shrink."""

from __future__ import annotations

import os
import time
from collections import Counter

from rich.console import Console
from rich.table import Table

from benchmarks._random_graphs import Outcome, outcome
from pipeline.errors import UserError
from pipeline.sparse_tflite.keras_conversion import to_tflite

GRAPHS = 1000
CONVERTED_EVERY = 50
DIFFERENCE = 1e-5


def run() -> list[str]:
    """Print the table; returns the goals that were missed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    started, missed = time.monotonic(), []
    differences, kinds, units, files = [0.0], Counter[str](), 0, 0
    for seed in range(GRAPHS):
        try:
            found = outcome(seed)
        except Exception as error:
            missed.append(f"graph {seed}: {type(error).__name__}: {error}")
            continue
        differences.append(found.difference)
        kinds.update(found.kinds)
        units += found.units
        if found.difference > DIFFERENCE:
            missed.append(f"graph {seed}: differs by {found.difference:.1e}, goal {DIFFERENCE:.0e} or less")
        if not found.shrank():
            missed.append(f"graph {seed}: {found.units} units left and the tensors do not show it")
        if seed % CONVERTED_EVERY == 0 and found.units and (smaller := _file_shrank(found)) is not None:
            files += 1
            if not smaller:
                missed.append(f"graph {seed}: its .tflite did not become smaller")
    table = Table("", "", title="units removed, against the masked graph")
    table.add_row("graphs", str(GRAPHS))
    table.add_row("units removed", str(units))
    table.add_row("greatest difference, as a share of the greatest output", f"{max(differences):.1e}")
    table.add_row("files compared", str(files))
    table.add_row("kinds of layers", ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()))
    table.add_row("seconds", f"{time.monotonic() - started:.0f}")
    Console().print(table)
    return missed


def _file_shrank(found: Outcome) -> bool | None:
    """None for a model that has no .tflite: one of several inputs, or of an operation that TFLite has not."""
    masked, cut = found.models
    if len(masked.inputs) != 1:
        return None
    try:
        return len(to_tflite(cut)) < len(to_tflite(masked))
    except UserError:
        return None

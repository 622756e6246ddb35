"""Units removed from 1,000 random graphs: what differs from the masked graph, and whether the tensors shrink.

Resumable: what was found of a graph is kept in the state folder, under the digest of the code it was made by.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks._random_graphs import Outcome, outcome
from benchmarks._remembered import code, remembered
from pipeline.errors import UserError
from pipeline.sparse_tflite.keras_conversion import to_tflite

GRAPHS = 1000
CONVERTED_EVERY = 50
DIFFERENCE = 1e-5


def run() -> list[str]:
    """Print the table; returns the goals that were missed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    made_by = code("benchmarks/surgery.py", "pipeline/pruning/surgery", "pipeline/models")
    missed, differences, kinds, units, files, seconds = [], [0.0], Counter[str](), 0, 0, 0.0
    for seed in range(GRAPHS):
        found = remembered("surgery", f"{made_by} {seed}", lambda seed=seed: _found(seed))
        seconds += found["seconds"]
        if "failed" in found:
            missed.append(f"graph {seed}: {found['failed']}")
            continue
        differences.append(found["difference"])
        kinds.update(found["kinds"])
        units += found["units"]
        if found["difference"] > DIFFERENCE:
            missed.append(
                f"graph {seed}: differs by {found['difference']:.1e}, goal {DIFFERENCE:.0e} or less"
            )
        if not found["shrank"]:
            missed.append(f"graph {seed}: {found['units']} units left and the tensors do not show it")
        if found["file_shrank"] is not None:
            files += 1
            if not found["file_shrank"]:
                missed.append(f"graph {seed}: its .tflite did not become smaller")
    table = Table("", "", title="units removed, against the masked graph")
    table.add_row("graphs", str(GRAPHS))
    table.add_row("units removed", str(units))
    table.add_row("greatest difference, as a share of the greatest output", f"{max(differences):.1e}")
    table.add_row("files compared", str(files))
    table.add_row("kinds of layers", ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()))
    table.add_row("seconds", f"{seconds:.0f}")
    Console().print(table)
    return missed


def _found(seed: int) -> dict[str, Any]:
    started = time.monotonic()
    try:
        found = outcome(seed)
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}", "seconds": time.monotonic() - started}
    converted = seed % CONVERTED_EVERY == 0 and found.units
    return {
        "difference": found.difference,
        "kinds": sorted(found.kinds),
        "units": found.units,
        "shrank": found.shrank(),
        "file_shrank": _file_shrank(found) if converted else None,
        "seconds": time.monotonic() - started,
    }


def _file_shrank(found: Outcome) -> bool | None:
    """None for a model that has no .tflite: one of several inputs, or of an operation that TFLite has not."""
    masked, cut = found.models
    if len(masked.inputs) != 1:
        return None
    try:
        return len(to_tflite(cut)) < len(to_tflite(masked))
    except UserError:
        return None

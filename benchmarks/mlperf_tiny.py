"""The models of MLPerf Tiny, Keras 2 files, half of their weights or units removed: is every layer accounted for?

Needs EDGEPIPE_DATA, a folder with mlperf_tiny/*.h5. Inputs and labels are random: what is shown is that pruning ends
well, not what it costs.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline import model_files
from pipeline.errors import UserError
from pipeline.models.load import load_model, parse_source
from pipeline.progress import Progress

METHODS = ("magnitude", "hessian", "neuron", "hessian_units")
SAMPLES = 64


def run() -> list[str]:
    """Print the table; returns what did not end well."""
    files = sorted(Path(os.environ.get("EDGEPIPE_DATA", ""), "mlperf_tiny").glob("*.h5"))
    if not os.environ.get("EDGEPIPE_DATA") or not files:
        print("mlperf_tiny: skipped, EDGEPIPE_DATA names no folder with mlperf_tiny/*.h5")
        return []
    table = Table(
        *("model", "method", "parameters", "left", "nonzeros in kernels", "left", "layers", "s"),
        title="MLPerf Tiny at 50 %, random inputs",
    )
    missed = []
    for file in files:
        for method in METHODS:
            try:
                table.add_row(*_row(file, method))
            except UserError as error:
                missed.append(f"{file.name}, {method}: {error}")
    Console(width=140).print(table)
    return missed


def _row(file: Path, method: str) -> list[str]:
    source = parse_source(str(file), Path()).artifact()
    model = load_model(source, source)
    layers = {layer.name for layer in model.layers}
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "random.npz")
        np.savez(data, **_random(model.input_shape[1:], model.output_shape[1:]))
        settings = [f"prune.method={method}", "prune.sparsity=0.5"]
        report = model_files.prune(
            file, data, Path(folder, "out.keras"), "mse", settings, Progress(quiet=True)
        )
    decisions = report["decisions"]
    told = {each["layer"].split("/")[0] for each in decisions if each["reason"]}
    if told != layers:
        raise UserError(f"nothing is said of {', '.join(sorted(layers - told))}")
    actions = Counter(each["action"] for each in decisions)
    figures = (
        *(report["parameters_before"], report["parameters_after"]),
        *(sum(each[key] for each in decisions) for key in ("weights_before", "weights_after")),
    )
    return [
        *(file.stem, method, *(f"{figure:,}" for figure in figures)),
        ", ".join(f"{count} {action}" for action, count in actions.most_common()),
        f"{time.monotonic() - started:.0f}",
    ]


def _random(inputs: tuple[int, ...], outputs: tuple[int, ...]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        f"{side}_{part}": random.random((SAMPLES, *shape)).astype(np.float32)
        for side, shape in (("x", inputs), ("y", outputs))
        for part in ("train", "test")
    }

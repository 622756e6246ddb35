"""Beside tensorflow-model-optimization 0.8.1: the same trained weights, data and sparsity, neither side choosing twice.

It gets an environment of its own in the state folder, made once. Its best schedule counts: the sparsity held from the
first step, or approached gradually. Resumable: what it answered is kept.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks._remembered import remembered
from pipeline import commands, engine, locate
from pipeline.models import data
from pipeline.models.load import load_model
from pipeline.progress import Progress
from targets.places import state_folder

SPARSITIES = (0.5, 0.8, 0.9, 0.95)
SEEDS = 5
PEER = "tensorflow-model-optimization==0.8.1"
SCRIPT = Path(__file__).parent / "peers" / "tfmot.py"
FIT = {"epochs": 1, "batch_size": 32, "learning_rate": 0.001}
ARGUMENTS = {
    "Conv2D": ("filters", "kernel_size", "strides", "padding", "activation"),
    "Dense": ("units", "activation"),
    "MaxPooling2D": ("pool_size",),
    "Flatten": (),
}


def run() -> list[str]:
    """Print the table; returns the cases in which we are below."""
    python = _environment()
    ours: dict[tuple[float, int], list[float]] = {}
    theirs: dict[tuple[float, int], list[float]] = {}
    for seed in range(SEEDS):
        for row in _theirs(python, seed)["rows"]:
            theirs.setdefault((row["sparsity"], 0), []).append(row["no fine-tuning"]["accuracy"])
            best = max(row[schedule]["accuracy"] for schedule in ("held", "gradual"))
            theirs.setdefault((row["sparsity"], 1), []).append(best)
        for sparsity in SPARSITIES:
            for epochs in (0, 1):
                report = _host(seed, "prune", sparsity, epochs).report("prune")
                ours.setdefault((sparsity, epochs), []).append(report["metric_after"])
    return _table(ours, theirs)


def _table(
    ours: dict[tuple[float, int], list[float]], theirs: dict[tuple[float, int], list[float]]
) -> list[str]:
    table = Table(
        *("sparsity", "epochs", "ours, median", "worst", "tfmot, median", "worst"),
        title=f"digits CNN, accuracy over {SEEDS} splits, beside {PEER} (re-run)",
    )
    missed = []
    for (sparsity, epochs), mine in ours.items():
        other = theirs[sparsity, epochs]
        figures = [np.median(mine), min(mine), np.median(other), min(other)]
        table.add_row(f"{sparsity:.0%}", str(epochs), *(f"{figure:.4f}" for figure in figures))
        if figures[0] < figures[2]:
            missed.append(f"{sparsity:.0%}, {epochs} epochs: {figures[0]:.4f}, tfmot {figures[2]:.4f}")
    Console().print(table)
    return missed


def _host(seed: int, last: str, sparsity: float = 0.8, epochs: int = 0) -> engine.HostRun:
    settings = [f"data.seed={seed}", f"train.seed={seed}", f"prune.sparsity={sparsity}"]
    settings += [f"prune.fine_tune.{key}={value}" for key, value in {**FIT, "epochs": epochs}.items()]
    plan, folder = locate.read_plan("pipeline.yaml", settings)
    with commands.store().in_use() as store:
        return engine.run_host_stages(plan, folder, store, Progress(quiet=True), last=last)


def _theirs(python: Path, seed: int) -> dict[str, Any]:
    made = _host(seed, "train").outputs
    model, dataset = made["train"]["model"], made["data"]["dataset"]
    code = hashlib.sha256(SCRIPT.read_bytes()).hexdigest()
    key = f"{PEER} {code} {model.digest} {dataset.digest} {SPARSITIES} {seed} {FIT}"
    return remembered("tfmot", key, lambda: _run(python, load_model(model), data.load(dataset.path), seed))


def _run(python: Path, model: Any, dataset: data.Dataset, seed: int) -> dict[str, Any]:
    layers = [
        (type(layer).__name__, {key: layer.get_config()[key] for key in ARGUMENTS[type(layer).__name__]})
        for layer in model.layers
    ]
    weights = {f"w{index}": weight for index, weight in enumerate(model.get_weights())}
    with tempfile.TemporaryDirectory() as folder:
        arrays = Path(folder, "arrays.npz")
        np.savez(arrays, **weights, **{name: getattr(dataset, name) for name in data.ARRAYS})
        job = {"layers": layers, "arrays": str(arrays), "sparsities": SPARSITIES, "seed": seed, **FIT}
        done = subprocess.run(
            [python, SCRIPT], input=json.dumps(job), capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise RuntimeError(f"{PEER} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _environment() -> Path:
    """The peer's Python, its environment made where it is missing."""
    folder = state_folder() / "peers" / "tfmot"
    ready = folder / "ready"
    if not ready.exists():
        tensorflow = importlib.metadata.version("tensorflow")
        keras = ".".join(tensorflow.split(".")[:2])
        packages = [PEER, f"tensorflow=={tensorflow}", f"tf_keras~={keras}.0"]
        print(f"making an environment for {PEER} in {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([folder / "bin/python", "-m", "pip", "install", "--quiet", *packages], check=True)
        ready.touch()
    return folder / "bin" / "python"

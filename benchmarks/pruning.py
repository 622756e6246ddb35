"""What pruning costs without labels and without training: MLPNet and LeNet-300-100 on MNIST.

Needs EDGEPIPE_DATA, a folder with mnist.npz and mlpnet.npz. Resumable: every (case, seed) is kept in the state folder
under the digest of the code it was made by. EDGEPIPE_BENCH_SEEDS says how many calibration seeds there are, 5 else.
The settings were chosen on training data.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline.engine import OWN_PACKAGES
from pipeline.models.quiet import keras_module
from pipeline.pruning import importance
from pipeline.pruning.head_refit import refit_head
from pipeline.pruning.output_refit import refit_outputs
from pipeline.pruning.prune import prune_model
from pipeline.pruning.rules import Rule
from pipeline.source_digest import source_digest
from targets.places import state_folder

Array = np.ndarray


@dataclass(frozen=True)
class Case:
    """One row: a model pruned in one way; its goal is an accuracy, or how much the error may grow, in points.

    `widths` are the units that the hidden layers keep, in place of a sparsity; `head` the steps, samples and
    temperature of the head's refit.
    """

    model: str
    method: str
    sparsity: float
    options: dict[str, Any]
    seeded: bool = True
    allocation: str = "auto"
    refit: tuple[int, int] | None = None
    widths: tuple[int, ...] = ()
    head: tuple[int, int, float] | None = None
    least: float | None = None
    growth: float | None = None

    @property
    def name(self) -> str:
        """As the table has it."""
        return f"{self.method}{' + refit' if self.refit else ' + refit_head' if self.head else ''}"

    @property
    def removed(self) -> str:
        """The sparsity, or the units that are left."""
        return "-".join(map(str, self.widths)) or f"{self.sparsity:.1%}"


def cases() -> Iterator[Case]:
    """The rows, in order."""
    goals = {0.8: 93.9, 0.9: 93.8, 0.95: 92.6, 0.98: 88.0}
    reproduced = {
        "magnitude": {0.8: 92.88, 0.9: 90.28, 0.95: 83.64, 0.98: 32.25},
        "lamp": {0.8: 92.95, 0.9: 90.28, 0.95: 83.88, 0.98: 58.08},
    }
    for method, figures in reproduced.items():
        for sparsity, figure in figures.items():
            least = figure - 0.1
            yield Case("MLPNet", method, sparsity, {}, seeded=False, allocation="global", least=least)
    calibrated = {"calibration_samples": 4096}
    for sparsity in goals:
        yield Case("MLPNet", "hessian", sparsity, calibrated)
    for sparsity, least in goals.items():
        yield Case("MLPNet", "hessian", sparsity, calibrated, refit=(8192, 8), least=least)
    for kept, growth in ((0.2, 0.2), (0.1, 0.5), (0.07, 1.4)):
        yield Case("LeNet-300-100", "hessian", 1 - kept, calibrated, growth=growth)
    for widths, growth in (((150, 50), 0.1), ((100, 50), 0.5), ((50, 25), 2.0)):
        for samples, head in ((4096, None), (2048, (3, 60_000, 3.0))):
            options = {"calibration_samples": samples, "multiple": 1}
            goal = growth if head else None
            yield Case("LeNet-300-100", "hessian_units", 0.0, options, widths=widths, head=head, growth=goal)


def run() -> list[str]:
    """Print the table; returns the goals that were missed."""
    folder = os.environ.get("EDGEPIPE_DATA")
    if not folder or not Path(folder, "mnist.npz").is_file():
        print("pruning: skipped, EDGEPIPE_DATA names no folder with mnist.npz and mlpnet.npz")
        return []
    seeds = int(os.environ.get("EDGEPIPE_BENCH_SEEDS", "5"))
    data = Data(Path(folder))
    table = Table(
        *("model", "method", "sparsity, or units", "accuracy, median", "worst", "goal", "s, median"),
        title=f"without labels or training, {seeds} calibration seeds, all re-run",
    )
    missed = []
    for case in cases():
        found = [_kept(case, seed, data) for seed in range(seeds if case.seeded else 1)]
        accuracy = float(np.median([each["accuracy"] for each in found]))
        least = case.least if case.growth is None else found[0]["dense"] - case.growth
        table.add_row(
            *(case.model, case.name, case.removed, f"{accuracy:.2f}"),
            f"{min(each['accuracy'] for each in found):.2f}",
            "" if least is None else f"{least:.2f}",
            f"{np.median([each['seconds'] for each in found]):.1f}",
        )
        if least is not None and accuracy < least - 1e-9:
            missed.append(f"{case.model}, {case.name} at {case.removed}: {accuracy:.2f}, goal {least:.2f}")
    Console(width=120).print(table)
    return missed


class Data:
    """MNIST and the two models."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        images = np.load(folder / "mnist.npz")
        self.y_train, self.y_test = images["y_train"], images["y_test"]
        self._x_train, self._x_test = (
            images[name].reshape(len(images[name]), -1).astype(np.float32) / 255
            for name in ("x_train", "x_test")
        )

    def inputs(self, model: str) -> tuple[Array, Array]:
        """Training and test inputs (n, 784), scaled as the model was trained."""
        scale: Callable[[Array], Array] = (
            (lambda x: (x - 0.1307) / 0.3081) if model == "MLPNet" else (lambda x: x)
        )
        return scale(self._x_train), scale(self._x_test)

    @functools.cached_property
    def models(self) -> dict[str, Any]:
        """By name, trained."""
        return {"MLPNet": self._mlpnet(), "LeNet-300-100": self._lenet()}

    def _mlpnet(self) -> Any:
        weights = np.load(self.folder / "mlpnet.npz")
        model = _perceptron((40, 20, 10), use_bias=False)
        model.set_weights([weights[name] for name in ("w1", "w2", "w3")])
        return model

    def _lenet(self) -> Any:
        keras = keras_module()
        path = state_folder() / "benchmarks" / "lenet-300-100.keras"
        if path.exists():
            return keras.saving.load_model(path)
        keras.utils.set_random_seed(0)
        model = _perceptron((300, 100, 10), use_bias=True)
        x, _ = self.inputs("LeNet-300-100")
        epochs, batch = 20, 128
        rate = keras.optimizers.schedules.CosineDecay(1e-3, epochs * -(-len(x) // batch))
        model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
        model.fit(x, self.y_train, batch_size=batch, epochs=epochs, verbose=0)
        path.parent.mkdir(parents=True, exist_ok=True)
        model.save(path)
        return model


def _perceptron(widths: tuple[int, ...], use_bias: bool) -> Any:
    keras = keras_module()
    hidden = [
        keras.layers.Dense(width, activation="relu", use_bias=use_bias, name=f"hidden{index}")
        for index, width in enumerate(widths[:-1])
    ]
    last = keras.layers.Dense(widths[-1], activation="softmax", use_bias=use_bias, name="classes")
    return keras.Sequential([keras.Input((784,)), *hidden, last])


def _kept(case: Case, seed: int, data: Data) -> dict[str, float]:
    """The outcome of a case with a seed, from the file of outcomes or measured now."""
    path = state_folder() / "benchmarks" / "pruning.jsonl"
    key = f"{_source()} {case} {seed}"
    if path.exists():
        for line in path.read_text().splitlines():
            if (record := json.loads(line))["key"] == key:
                return dict(record["found"])
    found = _measured(case, seed, data)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps({"key": key, "found": found}) + "\n")
    return found


def _measured(case: Case, seed: int, data: Data) -> dict[str, float]:
    dense, (x, _) = data.models[case.model], data.inputs(case.model)
    calibration = x[np.random.default_rng(seed).permutation(len(x))]
    options = importance.load(case.method).Options(**case.options)
    started = time.monotonic()
    wanted = case.options.get("calibration_samples", 0)
    pruned = prune_model(
        *(dense, case.method, case.sparsity, options, calibration[:wanted] if wanted else None),
        allocation=case.allocation,
        rules=[
            Rule(layers=f"hidden{number}", sparsity=1 - kept / dense.layers[number].units)
            for number, kept in enumerate(case.widths)
        ],
    )
    if case.head:
        steps, samples, temperature = case.head
        refit_head(dense, pruned.model, pruned.masks, calibration[:samples], steps, temperature)
    if case.refit:
        samples, steps = case.refit
        refit_outputs(dense, pruned.model, pruned.masks, calibration[:samples], steps)
    seconds = time.monotonic() - started
    return {
        "accuracy": _accuracy(pruned.model, case.model, data),
        "dense": _accuracy(dense, case.model, data),
        "seconds": seconds,
    }


def _accuracy(model: Any, name: str, data: Data) -> float:
    _, x = data.inputs(name)
    return 100 * float(np.mean(model.predict(x, verbose=0, batch_size=1000).argmax(axis=1) == data.y_test))


@functools.cache
def _source() -> str:
    root = Path(__file__).absolute().parent.parent
    rooms = (root / "pipeline" / "pruning").rglob("*.py")
    return hashlib.sha256(source_digest(rooms, root, OWN_PACKAGES).encode()).hexdigest()[:16]

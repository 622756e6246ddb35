"""What pruning costs on MNIST: MLPNet and LeNet-300-100 without labels and training, LeNet-5 with one epoch of it.

Needs EDGEPIPE_DATA, a folder with mnist.npz and mlpnet.npz. Resumable: every (case, seed) is kept in the state folder
under the digest of the code it was made by. EDGEPIPE_BENCH_SEEDS says how many calibration seeds there are, 5 else.
The settings were chosen on training data.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks._remembered import code, remembered
from pipeline.models.ports import output_ports
from pipeline.models.quiet import keras_module
from pipeline.plan_pruning import FineTuneSection, RefitHeadSection, RefitSection
from pipeline.pruning import importance
from pipeline.pruning.distillation import Distillation
from pipeline.pruning.head_refit import refit_head
from pipeline.pruning.output_refit import refit_outputs
from pipeline.pruning.prune import PrunedModel, prune_model
from pipeline.pruning.recovery import fine_tune
from pipeline.pruning.rounds import prune_in_rounds
from pipeline.pruning.rules import Rule
from targets.places import state_folder

Array = np.ndarray

REFIT = RefitSection(samples=8192, steps=8)
# The same, twice.
ROUNDS = RefitSection(samples=8192, steps=8, rounds=2)
# By the distance to the dense answers on 10,000 training images drawn at random: they are sorted by class.
EPOCH = FineTuneSection(epochs=1, learning_rate=0.006, decay="cosine", distill=0.9, temperature=4.0)
HEAD = RefitHeadSection(samples=60_000, steps=3, temperature=3.0)


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
    widths: tuple[int, ...] = ()
    head: RefitHeadSection | None = None
    refit: RefitSection | None = None
    fine_tune: FineTuneSection | None = None
    least: float | None = None
    growth: float | None = None

    @property
    def name(self) -> str:
        """As the table has it."""
        head = [] if self.head is None else ["refit_head"]
        refit = [] if self.refit is None else ["refit"] * self.refit.rounds
        epoch = [] if self.fine_tune is None else ["one epoch"]
        return " + ".join([self.method, *head, *refit, *epoch])

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
        yield Case("MLPNet", "hessian", sparsity, calibrated, refit=REFIT, least=least)
    yield Case("MLPNet", "hessian", 0.9, calibrated, refit=ROUNDS, least=goals[0.9])
    for kept, growth in ((0.2, 0.2), (0.1, 0.5), (0.07, 1.4)):
        yield Case("LeNet-300-100", "hessian", 1 - kept, calibrated, growth=growth)
    yield Case("LeNet-5", "hessian", 0.95, calibrated, fine_tune=EPOCH, growth=0.1)
    for widths, growth in (((150, 50), 0.1), ((100, 50), 0.5), ((50, 25), 2.0)):
        for samples, head in ((4096, None), (2048, HEAD)):
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
        title=f"{seeds} calibration seeds, all re-run; without labels or training but for the row that says so",
    )
    missed = []
    for case in cases():
        found = [_outcome(case, seed, data) for seed in range(seeds if case.seeded else 1)]
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
        return {
            "MLPNet": self._mlpnet(),
            "LeNet-300-100": self._trained("lenet-300-100", _lenet_300_100, epochs=20),
            "LeNet-5": self._trained("lenet-5", _lenet_5, epochs=20),
        }

    def _mlpnet(self) -> Any:
        weights = np.load(self.folder / "mlpnet.npz")
        model = _perceptron((40, 20, 10), use_bias=False)
        model.set_weights([weights[name] for name in ("w1", "w2", "w3")])
        return model

    def _trained(self, name: str, make: Callable[[], Any], epochs: int) -> Any:
        keras = keras_module()
        path = state_folder() / "benchmarks" / f"{name}.keras"
        if path.exists():
            return keras.saving.load_model(path)
        keras.utils.set_random_seed(0)
        model, batch = make(), 128
        x = self._x_train
        rate = keras.optimizers.schedules.CosineDecay(1e-3, epochs * -(-len(x) // batch))
        model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
        model.fit(x, self.y_train, batch_size=batch, epochs=epochs, verbose=0)
        path.parent.mkdir(parents=True, exist_ok=True)
        model.save(path)
        return model


def _lenet_300_100() -> Any:
    return _perceptron((300, 100, 10), use_bias=True)


def _lenet_5() -> Any:
    """That of the pruning literature, Caffe's: 430,500 weights and 580 biases."""
    layers = keras_module().layers
    return keras_module().Sequential(
        [
            keras_module().Input((784,)),
            layers.Reshape((28, 28, 1)),
            layers.Conv2D(20, 5, activation="relu", name="conv1"),
            layers.MaxPooling2D(name="pool1"),
            layers.Conv2D(50, 5, activation="relu", name="conv2"),
            layers.MaxPooling2D(name="pool2"),
            layers.Flatten(),
            layers.Dense(500, activation="relu", name="hidden"),
            layers.Dense(10, activation="softmax", name="classes"),
        ]
    )


def _perceptron(widths: tuple[int, ...], use_bias: bool) -> Any:
    keras = keras_module()
    hidden = [
        keras.layers.Dense(width, activation="relu", use_bias=use_bias, name=f"hidden{index}")
        for index, width in enumerate(widths[:-1])
    ]
    last = keras.layers.Dense(widths[-1], activation="softmax", use_bias=use_bias, name="classes")
    return keras.Sequential([keras.Input((784,)), *hidden, last])


@functools.cache
def _code() -> str:
    return code("pipeline/pruning")


def _outcome(case: Case, seed: int, data: Data) -> dict[str, float]:
    return remembered("pruning", f"{_code()} {case} {seed}", lambda: _measured(case, seed, data))


def _measured(case: Case, seed: int, data: Data) -> dict[str, float]:
    dense, (x, _) = data.models[case.model], data.inputs(case.model)
    calibration = x[np.random.default_rng(seed).permutation(len(x))]
    options = importance.load(case.method).Options(**case.options)
    started = time.monotonic()
    wanted = case.options.get("calibration_samples", 0)
    rules = [
        Rule(layers=f"hidden{number}", sparsity=1 - kept / dense.layers[number].units)
        for number, kept in enumerate(case.widths)
    ]

    def prune(model: Any, sparsity: float) -> PrunedModel:
        inputs = calibration[:wanted] if wanted else None
        return prune_model(
            *(model, case.method, sparsity, options, inputs), allocation=case.allocation, rules=rules
        )

    def refit(pruned: PrunedModel) -> None:
        assert case.refit is not None
        samples = calibration[: case.refit.samples]
        refit_outputs(dense, pruned.model, pruned.masks, samples, case.refit.steps)

    rounds = 1 if case.refit is None else case.refit.rounds
    pruned = prune_in_rounds(dense, case.sparsity, rounds, prune, refit)
    if case.head is not None:
        samples = calibration[: case.head.samples]
        refit_head(
            *(dense, pruned.model, pruned.masks, samples, case.head.steps), temperature=case.head.temperature
        )
    if case.refit is not None:
        refit(pruned)
    if case.fine_tune is not None:
        _tune(case.fine_tune, dense, pruned, x, data.y_train, seed)
    seconds = time.monotonic() - started
    return {
        "accuracy": _accuracy(pruned.model, case.model, data),
        "dense": _accuracy(dense, case.model, data),
        "seconds": seconds,
    }


def _tune(fit: FineTuneSection, dense: Any, pruned: PrunedModel, x: Array, y: Array, seed: int) -> None:
    answers = np.asarray(dense.predict(x, verbose=0, batch_size=1000))
    fine_tune(
        pruned.model,
        pruned.masks,
        *(x, y, "sparse_categorical_crossentropy"),
        epochs=fit.epochs,
        batch_size=fit.batch_size,
        learning_rate=fit.learning_rate,
        seed=seed,
        distillation=Distillation(answers, [output_ports(dense)[0].activation], fit.distill, fit.temperature),
        decay=fit.decay == "cosine",
    )


def _accuracy(model: Any, name: str, data: Data) -> float:
    _, x = data.inputs(name)
    return 100 * float(np.mean(model.predict(x, verbose=0, batch_size=1000).argmax(axis=1) == data.y_test))

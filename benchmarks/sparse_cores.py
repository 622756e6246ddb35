"""On which cores a runtime has sparse convolutions: a cluster timed dense and sparse, beside what the rules say."""

from __future__ import annotations

import os

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks._device_runs import Ran, Run
from benchmarks.sparse_right import DEVICES, RUNTIMES, device_worker, npy
from pipeline.models.quiet import keras_module
from pipeline.sparse_tflite import runtimes
from pipeline.sparse_tflite.keras_conversion import to_tflite
from pipeline.sparse_tflite.lint import lint
from pipeline.sparse_tflite.precision import Precision
from pipeline.sparse_tflite.suited import make_suited

PRECISIONS: tuple[Precision, ...] = ("float32", "float16")
SIZE, WIDTH, BLOCKS, ZEROS = 64, 96, 4, 0.9
ROUNDS, TIMES = 3, 3
# Sparse kernels are 3 to 5 times faster here; without them both files take the same time, but for what disturbs.
FASTER, SAME = 2.0, 1.5


def run() -> list[str]:
    """Print the table; returns the goals that were missed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    dense = _files()
    # The file that goes behind DENSIFY, for whoever would run it sparse and for whoever would not.
    files = {
        precision: {"dense": content, "sparse": make_suited(content, runtimes.load(RUNTIMES[1]), "arm")[0]}
        for precision, content in dense.items()
    }
    table = Table("runtime", "core", "precision", "dense, s", "sparse, s", "times faster", "by the rules")
    missed = []
    for device in DEVICES:
        for name in RUNTIMES:
            worker, core = device_worker(device, name)
            held = {
                f"{precision} {kind}": file
                for precision, both in files.items()
                for kind, file in both.items()
            }
            worker.send({**held, "inputs": npy(_image())})
            rounds = [worker.run([Run(each, "inputs", times=TIMES) for each in held]) for _ in range(ROUNDS)]
            seconds = dict(zip(held, map(_shortest, zip(*rounds, strict=True)), strict=True))
            for precision, both in files.items():
                slow, fast = (seconds[f"{precision} {kind}"] for kind in ("dense", "sparse"))
                report = lint(both["sparse"], "cluster", runtimes.load(name), core)
                sparse = any(each.outcome == "runs sparse" for each in report.graphs[0])
                words = "runs sparse" if sparse else "runs dense"
                row = (name, core, precision, f"{slow:.2f}", f"{fast:.2f}", f"{slow / fast:.1f}", words)
                table.add_row(*row)
                if slow / fast < FASTER if sparse else slow / fast > SAME:
                    missed.append(
                        f"{name} on {core}, {precision}: {slow / fast:.1f} times faster, rules: {words}"
                    )
    Console().print(table)
    return missed


def _shortest(ran: tuple[Ran, ...]) -> float:
    if errors := [each.error for each in ran if each.error]:
        raise RuntimeError(errors[0])
    return min(each.seconds or np.inf for each in ran)


def _image() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(1, SIZE, SIZE, 3)).astype(np.float32)


def _files() -> dict[Precision, bytes]:
    """A network that is one cluster, with zeros in its 1x1 convolutions."""
    keras = keras_module()
    layers, random = keras.layers, np.random.default_rng(0)
    image = keras.Input((SIZE, SIZE, 3), batch_size=1)
    tensor = layers.Conv2D(WIDTH, 3, 2, activation="relu")(layers.ZeroPadding2D(1)(image))
    for _ in range(BLOCKS):
        tensor = layers.DepthwiseConv2D(3, padding="same", activation="relu")(tensor)
        tensor = layers.Conv2D(WIDTH, 1, activation="relu")(tensor)
    model = keras.Model(image, layers.Dense(4)(layers.GlobalAveragePooling2D()(tensor)))
    for layer in model.layers:
        if weights := layer.get_weights():
            kernel, bias = (random.normal(size=each.shape) / WIDTH**0.5 for each in weights)
            pruned = kernel.shape[:2] == (1, 1)
            layer.set_weights([kernel * (random.random(kernel.shape) >= ZEROS * pruned), bias])
    return {precision: to_tflite(model, precision) for precision in PRECISIONS}

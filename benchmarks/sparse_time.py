"""How long converting takes: ours with the choice of encodings, beside TensorFlow's plain conversion of the same model.

In turns, so that a machine that slows down slows both; medians.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks._sparse_models import build
from pipeline.models.quiet import keras_module, quiet
from pipeline.sparse_tflite import runtimes
from pipeline.sparse_tflite.keras_conversion import to_tflite
from pipeline.sparse_tflite.suited import make_suited

NETWORKS = ("MobileNetV1 by the rules, 224", "LeNet-300-100, single weights", "digits CNN")
TURNS = 5
GOAL = 1.3


def run() -> list[str]:
    """Print the table; returns the goals that were missed."""
    table = Table("network", "TensorFlow, seconds", "edgepipe, seconds", "times", title="converting")
    missed = []
    for name in NETWORKS:
        model = build(name)
        theirs, ours = _medians(lambda model=model: _plain(model), lambda model=model: _whole(model))
        table.add_row(name, f"{theirs:.2f}", f"{ours:.2f}", f"{ours / theirs:.2f}")
        if ours > GOAL * theirs:
            missed.append(f"{name}: converting takes {ours / theirs:.2f} times TensorFlow's, goal {GOAL:g}")
    Console().print(table)
    return missed


def _medians(*works: Callable[[], Any]) -> tuple[float, ...]:
    """Seconds of each, in turns there and back again; the first turn, which loads what all need, does not count."""
    taken: list[list[float]] = [[] for _ in works]
    for turn in range(TURNS + 1):
        order = range(len(works)) if turn % 2 else reversed(range(len(works)))
        for at in order:
            started = time.perf_counter()
            works[at]()
            if turn:
                taken[at].append(time.perf_counter() - started)
    return tuple(float(np.median(each)) for each in taken)


def _plain(model: Any) -> bytes:
    keras_module()
    import tensorflow as tf

    with quiet():
        return bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())


def _whole(model: Any) -> bytes:
    return make_suited(to_tflite(model), runtimes.load("ai-edge-litert"), "arm")[0]

"""How long pruning takes at the size of MobileNetV1 (4.2 million weights), and magnitude at ten million."""

from __future__ import annotations

import resource
import time

import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline.pruning.allocation import Request
from pipeline.pruning.calibration import moments
from pipeline.pruning.elements import prune_layers
from pipeline.pruning.granularity import parse
from pipeline.pruning.importance import hessian, magnitude
from pipeline.pruning.layer import Layer

# Inputs and outputs of the 1x1 convolutions, and of the classifier.
MOBILENET = (
    *((32, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512)),
    *[(512, 512)] * 5,
    *((512, 1024), (1024, 1024), (1024, 1000)),
)
SAMPLES = 4096
SPARSITY = 0.8
OBS_SECONDS, OBS_BYTES = 300.0, 2 * 10**9
MAGNITUDE_SECONDS = 1.0


def run() -> list[str]:
    """Print the table; returns the goals that were missed."""
    table = Table("case", "weights", "seconds", "peak MB", title="speed, synthetic weights and inputs")
    by_size = [_layer(number, *shape) for number, shape in enumerate([(2500, 1000)] * 4)]
    started = time.monotonic()
    for _ in prune_layers(by_size, magnitude, magnitude.Options(), _request("global")):
        pass
    fast = time.monotonic() - started
    table.add_row("magnitude, global", "10,000,000", f"{fast:.2f}", f"{_peak() / 1e6:.0f}")
    del by_size
    layers = [_layer(number, *shape) for number, shape in enumerate(MOBILENET)]
    started = time.monotonic()
    for _ in prune_layers(layers, hessian, hessian.Options(), _request("global")):
        pass
    slow = time.monotonic() - started
    weights = sum(layer.weight.size for layer in layers)
    table.add_row("hessian, MobileNetV1", f"{weights:,}", f"{slow:.1f}", f"{_peak() / 1e6:.0f}")
    Console().print(table)
    missed = [f"magnitude took {fast:.2f} s, goal {MAGNITUDE_SECONDS}"] if fast > MAGNITUDE_SECONDS else []
    if slow > OBS_SECONDS or _peak() > OBS_BYTES:
        missed.append(
            f"hessian took {slow:.0f} s and {_peak():,} bytes, goal {OBS_SECONDS} and {OBS_BYTES:,}"
        )
    return missed


def _request(allocation: str) -> Request:
    return Request(SPARSITY, parse("element"), allocation, {})


def _layer(number: int, d: int, r: int) -> Layer:
    """A layer of correlated inputs, which it draws anew each time it is asked for their moments."""

    def inputs() -> np.ndarray:
        random = np.random.default_rng([number, 1])
        hidden = random.normal(size=(SAMPLES, d // 4)) @ random.normal(size=(d // 4, d))
        return np.maximum(hidden + random.normal(size=(SAMPLES, d)), 0).astype(np.float32)

    weight = np.random.default_rng([number, 0]).normal(size=(d, r)).astype(np.float32) / np.float32(d**0.5)
    return Layer(str(number), "Conv2D", weight, lambda: moments([(x := inputs(), x)]), lambda: np.ones(r))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

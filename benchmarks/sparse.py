"""What zeros gain on a device: size, load, speed and memory of our files beside the dense ones and TensorFlow's own
`EXPERIMENTAL_SPARSITY`; then what files take (`sparse_size`), and how long converting does (`sparse_time`).

Emulated devices are started where they are not up; of them only ratios mean anything. Resumable: what was measured is
kept in the state folder, under the digest of the code it was made by; delete `benchmarks/sparse.jsonl` there to forget.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from rich.console import Console
from rich.table import Table

from benchmarks import sparse_size, sparse_time
from benchmarks._remembered import code, remembered
from benchmarks._sparse_device import DENSE, beside_dense, reach
from benchmarks._sparse_models import build
from pipeline import suits
from pipeline.models.quiet import quiet
from pipeline.progress import Progress
from pipeline.sparse_tflite import runtimes
from pipeline.sparse_tflite.eligible import make_eligible
from pipeline.sparse_tflite.suited import make_suited
from targets.cores import Core
from targets.errors import TargetError

LITERT, OLDER = "ai-edge-litert", "tflite-runtime"
RUNTIMES = (LITERT, OLDER)
PC, PI4, PI5 = "local", "virtual-rpi4", "virtual-rpi5"
OURS, THEIRS = "edgepipe", "TensorFlow sparse"
HEAVY = 3
LIGHT = 4
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Cell:
    """A network on a device with a runtime, and the goals that we set for it there: how many times faster than dense,
    and how many times less memory. `theirs`: with TensorFlow's own sparse file beside it."""

    network: str
    device: str
    runtime: str
    repetitions: int = LIGHT
    faster: float | None = None
    lighter: float | None = None
    theirs: bool = True

    @property
    def title(self) -> str:
        return f"{self.network} on {self.device} with {self.runtime}"


def cells() -> Iterator[Cell]:
    """Every cell of the table, those with goals first."""
    yield Cell("MobileNetV1 by the rules, 224", PI4, LITERT, HEAVY, faster=4)
    for name in ("MobileNet", "MobileNetV2"):
        yield Cell(f"keras {name}, 224", PI4, LITERT, HEAVY, faster=1, theirs=False)
        yield Cell(f"keras {name} without top, 64", PI4, LITERT, HEAVY, faster=1, theirs=False)
    for runtime in RUNTIMES:
        for network in ("MLPNet x 8", "LeNet-300-100"):
            yield Cell(f"{network}, blocks of 4", PI4, runtime, faster=4)
        yield Cell("LeNet-300-100, single weights", PI4, runtime)
        yield Cell("one layer of 32 MiB, blocks of 4", PC, runtime, lighter=6)
    for network, repetitions in (
        ("LeNet-300-100, blocks of 4", LIGHT),
        ("MobileNetV1 by the rules, 64", HEAVY),
        ("keras MobileNetV2, 64", HEAVY),
    ):
        for device, runtime in itertools.product((PI4, PI5, PC), RUNTIMES):
            if device != PI4 or not network.startswith("LeNet"):
                yield Cell(network, device, runtime, repetitions)


def run() -> list[str]:
    """Print the tables; returns the goals that were missed."""
    made_by = code("benchmarks/sparse.py", "pipeline/sparse_tflite")
    table = Table(
        *("network", "device", "runtime", "file", "bytes", "times faster than dense", "peak MiB", "answers"),
        title="at 90 % zeros; in brackets the 95 % interval",
    )
    missed = []
    for cell in cells():
        try:
            with Progress().step(cell.title):
                found = remembered("sparse", f"{made_by} {cell}", functools.partial(_measured, cell))
        except TargetError as error:
            missed.append(f"{cell.title}: not measured: {error}")
            continue
        for variant, row in found.items():
            table.add_row(cell.network, cell.device, cell.runtime, variant, *_columns(row))
        missed += _missed(cell, found)
    Console(width=180).print(table)
    return [*missed, *sparse_size.run(), *sparse_time.run()]


def _measured(cell: Cell) -> dict[str, Any]:
    target = reach(cell.device, cell.runtime)
    files = _files(cell.network, cell.runtime, core=cast(Core, suits.core_of(cell.device, target)))
    if not cell.theirs:
        del files[THEIRS]
    return dict(beside_dense(cell.device, target, files, cell.repetitions))


def _files(network: str, runtime: str, core: Core) -> dict[str, bytes]:
    dense, theirs = _from_tensorflow(network)
    eligible = make_eligible(dense, "auto", (runtime, core)).content
    ours, _ = make_suited(eligible, runtimes.load(runtime), core)
    return {DENSE: dense, OURS: ours, THEIRS: theirs}


@functools.lru_cache(maxsize=2)
def _from_tensorflow(network: str) -> tuple[bytes, bytes]:
    """The dense file, and the sparse one of TensorFlow's own."""
    model = build(network)
    import tensorflow as tf

    found = []
    for optimizations in ([], [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]):
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        converter.optimizations = optimizations
        with quiet():
            found.append(bytes(converter.convert()))
    return found[0], found[1]


def _columns(row: Mapping[str, Any]) -> tuple[str, ...]:
    if "failed" in row:
        return f"{row['bytes']:,}", "", "", f"none: {row['failed']}"
    faster, difference = row["faster"], row["difference"]
    told = (
        "right" if row["agrees"] else f"wrong by {difference:.2g}" if difference is not None else "no numbers"
    )
    return (
        f"{row['bytes']:,}",
        f"{faster['value']:.2f} ({faster['low']:.2f} to {faster['high']:.2f})",
        f"{row['peak_memory_bytes'] / MEBIBYTE:.1f}",
        told,
    )


def _missed(cell: Cell, found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The goals of the cell that were missed: ours runs, is right and no larger, and as much faster and lighter."""
    ours, dense, theirs = found[OURS], found[DENSE], found.get(THEIRS, {})
    if "failed" in ours:
        return [f"{cell.title}: {ours['failed']}"]
    told = []
    if not ours["agrees"]:
        told.append("wrong answers")
    if ours["bytes"] > dense["bytes"]:
        told.append(f"{ours['bytes']:,} bytes, dense takes {dense['bytes']:,}")
    if theirs.get("agrees") and ours["bytes"] > theirs["bytes"]:
        told.append(f"{ours['bytes']:,} bytes, TensorFlow's own sparse file takes {theirs['bytes']:,}")
    if cell.faster is not None and ours["faster"]["value"] < cell.faster:
        told.append(f"{ours['faster']['value']:.2f} times faster, goal {cell.faster:g}")
    if cell.lighter is not None:
        lighter = dense["peak_memory_bytes"] / ours["peak_memory_bytes"]
        if lighter < cell.lighter:
            told.append(f"{lighter:.1f} times less memory, goal {cell.lighter:g}")
    return [f"{cell.title}: {each}" for each in told]

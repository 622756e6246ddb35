"""What a file takes by its share of zeros: dense, as TensorFlow's own sparse conversion writes it, and as we do: with
everything behind DENSIFY, and as it suits each runtime on a Raspberry Pi 4.

The least is found by storing each kernel in every layout that the format has, with the tables that go with it.
TensorFlow's files are held against ours where they load and answer right, which is tried.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks._remembered import code, remembered
from benchmarks._sparse_device import DENSE, beside_dense, reach
from benchmarks._sparse_files import convert
from pipeline.progress import Progress
from pipeline.sparse_tflite import runtimes
from pipeline.sparse_tflite.encode import OVERHEAD, encode, stored_as, why_not
from pipeline.sparse_tflite.encoding import Layout
from pipeline.sparse_tflite.encoding import encode as encode_tensor
from pipeline.sparse_tflite.flatbuffer import read_model, write_model
from pipeline.sparse_tflite.suited import make_suited
from pipeline.sparse_tflite.weights import values_of, weights_of

SHARES = (0.5, 0.7, 0.8, 0.9, 0.95)
PRECISIONS = ("float32", "float16", "int8")
RUNTIMES = ("ai-edge-litert", "tflite-runtime")
DEVICE, CORE = "virtual-rpi4", "arm"
WITHIN = 1.02
BLOCKS = (2, 4, 8, 16)


def run() -> list[str]:
    """Print the table; returns the goals that were missed."""
    made_by = code("benchmarks/sparse_size.py", "pipeline/sparse_tflite")
    columns = ("precision", "zeros", "dense", "TensorFlow's sparse", "the least", "ours", *RUNTIMES)
    table, missed = Table(*columns, title="bytes of a file"), []
    for precision, share in itertools.product(PRECISIONS, SHARES):
        title = f"{precision}, {share:.0%}"
        with Progress().step(f"sizes in {title}"):
            found = remembered(
                "sparse_size", f"{made_by} {title}", functools.partial(_sizes, precision, share)
            )
        cells = (found[name] for name in ("dense", "theirs", "least", "ours", *RUNTIMES))
        table.add_row(precision, f"{share:.0%}", *(f"{each:,}" for each in cells))
        missed += [f"{title}: {each}" for each in _missed(found)]
    Console(width=130).print(table)
    return missed


def _sizes(precision: str, share: float) -> dict[str, Any]:
    dense, theirs = convert(precision, zeros=share), convert(precision, sparse=True, zeros=share)
    ours, saved = _smallest(dense)
    found = {"dense": len(dense), "theirs": len(theirs), "ours": len(ours), "least": len(ours) - saved}
    for runtime in RUNTIMES:
        suited, _ = make_suited(dense, runtimes.load(runtime), CORE)
        found[runtime] = len(suited)
        if len(suited) > len(theirs):
            row = beside_dense(DEVICE, reach(DEVICE, runtime), {DENSE: dense, "theirs": theirs}, 2)["theirs"]
            found[f"theirs on {runtime}"] = (
                "right" if row.get("agrees") else row.get("failed", "wrong answers")
            )
    return found


def _missed(found: dict[str, Any]) -> Iterator[str]:
    for name in ("ours", *RUNTIMES):
        if found[name] > found["dense"]:
            yield f"{name}: {found[name]:,} bytes, dense takes {found['dense']:,}"
    if found["ours"] > WITHIN * found["least"]:
        yield f"{found['ours']:,} bytes, the least is {found['least']:,}"
    if found["ours"] > found["theirs"]:
        yield f"{found['ours']:,} bytes, TensorFlow's own sparse file takes {found['theirs']:,}"
    for runtime in RUNTIMES:
        if found.get(f"theirs on {runtime}") == "right":
            yield f"{runtime}: {found[runtime]:,} bytes, TensorFlow's own, which is right, {found['theirs']:,}"


def _smallest(dense: bytes) -> tuple[bytes, int]:
    """Every kernel behind a DENSIFY that becomes smaller by it; and the bytes that other layouts would have saved."""
    model = read_model(dense, "dense")
    choices, saved = {}, 0
    for key, readers in weights_of(model):
        values = values_of(model, model.subgraphs[key[0]].tensors[key[1]])
        if values is not None and why_not(model, key, readers, "csr_densify") is None:
            stored = stored_as(values, "csr_densify").nbytes + OVERHEAD["csr_densify"]
            choices[key] = "csr_densify" if stored < values.nbytes else "dense"
            saved += max(0, min(stored, values.nbytes) - OVERHEAD["csr_densify"] - min(_every(values)))
    encode(model, choices)
    written = write_model(model)
    return min(dense, written, key=len), saved


def _every(values: np.ndarray) -> Iterator[int]:
    """The bytes of a kernel in every sparse layout."""
    # Where a dimension of one index stands makes no difference.
    values = values.squeeze()
    for block in (None, *itertools.product(range(values.ndim), BLOCKS)):
        if block is None or not values.shape[block[0]] % block[1]:
            for order in itertools.permutations(range(values.ndim)):
                for sparse in itertools.product((False, True), repeat=values.ndim):
                    yield encode_tensor(values, Layout(order, sparse, block)).nbytes

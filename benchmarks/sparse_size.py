"""What a file takes by its share of zeros: dense, as TensorFlow's own sparse conversion writes it, and as we do."""

from __future__ import annotations

import os

from rich.console import Console
from rich.table import Table

from benchmarks._sparse_files import convert
from pipeline.sparse_tflite.encode import OVERHEAD, encode, stored_as, why_not
from pipeline.sparse_tflite.flatbuffer import read_model, write_model
from pipeline.sparse_tflite.weights import values_of, weights_of

SHARES = (0.5, 0.7, 0.8, 0.9, 0.95)
PRECISIONS = ("float32", "float16", "int8")


def run() -> list[str]:
    """Print the table; returns the goals that were missed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    table = Table("precision", "zeros", "dense", "TensorFlow's sparse", "ours", title="bytes of a file")
    missed = []
    for precision in PRECISIONS:
        for share in SHARES:
            dense, theirs = convert(precision, zeros=share), convert(precision, sparse=True, zeros=share)
            ours = _smallest(dense)
            table.add_row(precision, f"{share:.0%}", *(f"{len(each):,}" for each in (dense, theirs, ours)))
            if len(ours) > min(len(dense), len(theirs)):
                missed.append(
                    f"{precision}, {share:.0%}: {len(ours):,} bytes, goal the smaller of the others"
                )
    Console().print(table)
    return missed


def _smallest(dense: bytes) -> bytes:
    """Every kernel behind a DENSIFY that becomes smaller by it."""
    model = read_model(dense, "dense")
    choices = {}
    for key, readers in weights_of(model):
        values = values_of(model, model.subgraphs[key[0]].tensors[key[1]])
        if values is not None and why_not(model, key, readers, "csr_densify") is None:
            smaller = stored_as(values, "csr_densify").nbytes + OVERHEAD["csr_densify"] < values.nbytes
            choices[key] = "csr_densify" if smaller else "dense"
    encode(model, choices)
    written = write_model(model)
    return min(dense, written, key=len)

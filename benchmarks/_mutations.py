"""Mutated .tflite files from a seed, and what reading one has to come to: for the benchmark and the tests."""

from __future__ import annotations

import functools
import struct
from typing import Any, Literal

import numpy as np

from pipeline.errors import UserError
from pipeline.models.quiet import keras_module
from pipeline.sparse_tflite import runtimes
from pipeline.sparse_tflite.encode import encode, why_not
from pipeline.sparse_tflite.flatbuffer import read_model, write_model
from pipeline.sparse_tflite.fully_connected import make_sparse
from pipeline.sparse_tflite.keras_conversion import to_tflite
from pipeline.sparse_tflite.signature import read_signature
from pipeline.sparse_tflite.suited import make_suited
from pipeline.sparse_tflite.weights import weights_of

# Numbers that lengths, offsets and sizes are broken by.
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFC, 0xFFFFFFFF)


@functools.cache
def healthy_files() -> tuple[bytes, ...]:
    """A small network, stored densely, behind DENSIFY, and directly sparse."""
    keras = keras_module()
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Conv2D(4, 3),
        keras.layers.Flatten(),
        keras.layers.Dense(24),
        keras.layers.Dense(3),
    ]
    model = keras.Sequential([keras.Input((5, 5, 2)), *layers])
    random = np.random.default_rng(0)
    for layer in (layers[0], *layers[2:]):
        kernel, bias = layer.get_weights()
        layer.set_weights([np.where(random.random(kernel.shape) < 0.1, kernel, 0), bias])
    dense = to_tflite(model)
    return dense, _densified(dense), make_sparse(dense)[0]


def mutant(seed: int) -> bytes:
    """One of the files with some bytes or words changed, parts moved, or the end cut off."""
    random = np.random.default_rng(seed)
    files = healthy_files()
    content = bytearray(files[seed % len(files)])
    for _ in range(random.integers(1, 6)):
        _change(content, random)
    if random.random() < 0.1:
        del content[random.integers(len(content)) :]
    # Without the mark nothing of it would be read.
    content[4:8] = b"TFL3"
    return bytes(content)


def _change(content: bytearray, random: np.random.Generator) -> None:
    place = int(random.integers(len(content)))
    word = min(place // 4 * 4, len(content) - 4)
    kind = random.integers(5)
    if kind == 0:
        content[place] = random.integers(256)
    elif kind == 1:
        content[place] ^= 1 << random.integers(8)
    elif kind == 2:
        struct.pack_into("<I", content, word, random.choice(EXTREMES))
    elif kind == 3:
        (number,) = struct.unpack_from("<I", content, word)
        struct.pack_into("<I", content, word, (number + int(random.integers(-64, 65)) * 4) % 2**32)
    else:
        source, length = int(random.integers(len(content))), int(random.integers(1, 65))
        part = content[source : source + length]
        content[place : place + len(part)] = part


def reading(content: bytes) -> Literal["refused", "read"]:
    """Read a file in every way there is; what is not refused must be a file that reads again. Raises what is wrong
    with us: anything but a `UserError`."""
    try:
        read_signature(content, "mutant")
        written = [
            make_sparse(content, "mutant")[0],
            make_suited(content, runtimes.load("ai-edge-litert"), "arm", "mutant")[0],
        ]
    except UserError:
        return "refused"
    for each in written:
        read_model(each, "written")
    read_model(_densified(content), "densified")
    return "read"


def _densified(content: bytes) -> bytes:
    model = read_model(content, "mutant")
    choices: dict[Any, str] = {
        key: "csr_densify"
        for key, readers in weights_of(model)
        if why_not(model, key, readers, "csr_densify") is None
    }
    encode(model, choices)
    return write_model(model)

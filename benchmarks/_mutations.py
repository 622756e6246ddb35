"""Mutated .tflite files from a seed, and what reading one has to come to: for the benchmark and the tests.

Half of them are broken as bytes, which mostly ends in the reader; half as tables, which are whole and say the absurd.
"""

from __future__ import annotations

import copy
import functools
import struct
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np

from pipeline.errors import UserError
from pipeline.models.quiet import keras_module
from pipeline.sparse_tflite import runtimes
from pipeline.sparse_tflite.encode import encode, why_not
from pipeline.sparse_tflite.flatbuffer import damage_is_told, read_model, write_model
from pipeline.sparse_tflite.keras_conversion import to_tflite
from pipeline.sparse_tflite.lint import lint
from pipeline.sparse_tflite.quantum import output_quantum
from pipeline.sparse_tflite.rewrites import rewrite
from pipeline.sparse_tflite.schema import schema
from pipeline.sparse_tflite.signature import read_signature
from pipeline.sparse_tflite.storing import make_sparse
from pipeline.sparse_tflite.suited import make_suited
from pipeline.sparse_tflite.tables import vector
from pipeline.sparse_tflite.weights import weights_of

# Numbers that lengths, offsets and sizes are broken by.
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFC, 0xFFFFFFFF)
# Numbers that what a table says is broken by.
ABSURD = (-1, 0, 1, 2, 3, 7, 127, 128, 255, 65535, 2**31 - 1, -(2**31))


@functools.cache
def healthy_files() -> tuple[bytes, ...]:
    """A small network, stored densely, behind DENSIFY, and directly sparse; one that every rewrite fits; and one of
    two graphs."""
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
    return dense, _densified(dense), make_sparse(dense)[0], _rewritable(), _of_two_graphs(dense)


def _rewritable() -> bytes:
    keras = keras_module()
    layers = [
        keras.layers.Conv2D(4, 3, 2, "same", activation="relu6"),
        keras.layers.DepthwiseConv2D(3, 2, "same"),
        keras.layers.GlobalAveragePooling2D(keepdims=True),
        keras.layers.Conv2D(3, 1),
    ]
    model = read_model(to_tflite(keras.Sequential([keras.Input((8, 8, 3)), *layers])), "rewritable")
    for tensor in model.subgraphs[0].tensors:
        if len(vector(tensor.shape)) == 4 and not len(vector(model.buffers[tensor.buffer].data)):
            tensor.shapeSignature = [-1, *tensor.shape[1:]]
    return write_model(model)


def _of_two_graphs(content: bytes) -> bytes:
    """The network as what an IF does, whichever way."""
    model, tables = read_model(content, "dense"), schema()
    (network,) = model.subgraphs
    main, condition, operator, code = (
        tables.SubGraphT(),
        tables.TensorT(),
        tables.OperatorT(),
        tables.OperatorCodeT(),
    )
    main.tensors = [
        condition,
        *(copy.copy(network.tensors[at]) for at in (*network.inputs, *network.outputs)),
    ]
    condition.name, condition.shape, condition.type = b"condition", [1], tables.TensorType.BOOL
    main.inputs, main.outputs, main.operators = [0, 1], [2], [operator]
    operator.inputs, operator.outputs, operator.opcodeIndex = [0, 1], [2], len(model.operatorCodes)
    operator.builtinOptionsType, operator.builtinOptions = (
        tables.BuiltinOptions.IfOptions,
        tables.IfOptionsT(),
    )
    operator.builtinOptions.thenSubgraphIndex = operator.builtinOptions.elseSubgraphIndex = 1
    code.builtinCode = code.deprecatedBuiltinCode = tables.BuiltinOperator.IF
    code.version = 1
    model.operatorCodes.append(code)
    model.subgraphs, model.signatureDefs = [main, network], None
    return write_model(model)


def mutant(seed: int) -> bytes:
    """One of the files with some bytes or words changed, parts moved, or the end cut off; or with tables that say
    something else."""
    random = np.random.default_rng(seed)
    files = healthy_files()
    content = files[seed // 2 % len(files)]
    return _twisted(content, random) if seed % 2 else _broken(content, random)


def _broken(healthy: bytes, random: np.random.Generator) -> bytes:
    content = bytearray(healthy)
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


def _twisted(healthy: bytes, random: np.random.Generator) -> bytes:
    """The file with one to three fields of its tables changed; those that cannot be written are left as they were."""
    model = read_model(healthy, "healthy")
    tables = list(_tables(model))
    for _ in range(random.integers(1, 4)):
        table = tables[random.integers(len(tables))]
        name = sorted(vars(table))[random.integers(len(vars(table)))]
        before = getattr(table, name)
        setattr(table, name, _other(before, tables, random))
        try:
            write_model(copy.copy(model))
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error):
            setattr(table, name, before)
    return write_model(model)


def _tables(table: Any) -> Iterator[Any]:
    yield table
    for value in vars(table).values():
        for each in value if isinstance(value, list) else [value]:
            if hasattr(each, "__dict__"):
                yield from _tables(each)


def _other(value: Any, tables: list[Any], random: np.random.Generator) -> Any:
    """Something else of the same type: a number, a vector, a table from elsewhere in the file, or nothing."""
    if isinstance(value, bool | int | float | np.number):
        return type(value)(random.choice(ABSURD))
    if isinstance(value, np.ndarray) and len(value) and random.random() < 0.5:
        found = value.copy()
        found[random.integers(len(found))] = np.array(random.choice(ABSURD)).astype(found.dtype)
        return found
    if isinstance(value, list | np.ndarray) and len(value):
        cut = int(random.integers(len(value)))
        longer: list[Callable[[], Any]] = [
            lambda: value[:cut],
            lambda: [*value, *value[cut:]],
            lambda: [*value[:cut], value[0], *value[cut + 1 :]],
        ]
        found = longer[random.integers(len(longer))]()
        return np.asarray(found, value.dtype) if isinstance(value, np.ndarray) else found
    like = [each for each in tables if type(each) is type(value)]
    return like[random.integers(len(like))] if like and random.random() < 0.7 else None


def reading(content: bytes) -> Literal["refused", "read"]:
    """Read a file in every way there is; what is not refused must be a file that reads again. Raises what is wrong
    with us: anything but a `UserError`."""
    runtime = runtimes.load("ai-edge-litert")
    ways: list[Callable[[], Any]] = [
        lambda: make_sparse(content, "mutant")[0],
        lambda: make_suited(content, runtime, "arm", "mutant")[0],
        lambda: rewrite(content, name="mutant")[0],
        lambda: _densified(content),
        lambda: lint(content, "mutant", runtime, "arm").sentence,
        lambda: output_quantum(content, "mutant"),
    ]
    ended: Literal["refused", "read"] = "read"
    try:
        read_signature(content, "mutant")
    except UserError:
        return "refused"
    for way in ways:
        try:
            written = way()
        except UserError:
            ended = "refused"
        else:
            if isinstance(written, bytes):
                read_model(written, "written")
    return ended


def _densified(content: bytes) -> bytes:
    model = read_model(content, "mutant")
    with damage_is_told("mutant"):
        choices: dict[Any, str] = {
            key: "csr_densify"
            for key, readers in weights_of(model)
            if why_not(model, key, readers, "csr_densify") is None
        }
        encode(model, choices)
    return write_model(model)

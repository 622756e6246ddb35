"""A read-only view of a .tflite file: its operators by name, who reads whose output, and the zeros of their weights."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pipeline.sparse_tflite.encoding import Layout, Level, SparseTensor, decode
from pipeline.sparse_tflite.flatbuffer import damage_is_told, read_model
from pipeline.sparse_tflite.schema import schema

Encoding = Literal["dense", "csr_densify", "fc_1x4", "fc_1x16", "fc_unstructured"]
Precision = Literal["float32", "float16", "dynamic_range", "int8", "other"]

# Where the weights stand among the inputs of the operators that have any.
WEIGHTS_AT = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1, "TRANSPOSE_CONV": 1}
INPUT_AT = {"TRANSPOSE_CONV": 2}
# What makes other values of a constant before the first inference, without changing them.
UNPACKING = ("DENSIFY", "DEQUANTIZE")
DTYPES = {"float32": "<f4", "float16": "<f2", "int8": "i1", "uint8": "u1", "int16": "<i2", "int32": "<i4"}
# Bytes of the largest constant that is told by its integers: the paddings of eight axes.
SMALL = 64
# The most weights that a stored byte may stand for: a shape that lies must not cost memory.
MOST_ZEROS = 64


@dataclass(frozen=True)
class Tensor:
    """A tensor: `number` in its graph, `shape` as stored, `fixed` unless a size is open until the file is loaded.

    `integers` are what a small constant of whole numbers holds: axes, paddings.
    """

    number: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    constant: bool
    fixed: bool
    integers: tuple[int, ...] | None

    @property
    def spatial(self) -> int:
        """Positions between batch and channels: 1 for a vector, height times width for an image."""
        return int(np.prod(self.shape[1:-1], dtype=np.int64))


@dataclass(frozen=True)
class Weights:
    """The weights of an operator; `values`, all of them, are None where they are stored in a way nobody here writes.

    `number` is that of the tensor they are stored in, of type `dtype`; `nonzeros` counts values other than zero, of
    `size` in all.
    """

    number: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    encoding: Encoding
    nonzeros: int
    values: np.ndarray | None

    @property
    def size(self) -> int:
        """How many weights there are, zeros and all."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def zeros(self) -> float:
        """The share of zeros."""
        return 1 - self.nonzeros / self.size if self.size else 0.0

    def nonzero_blocks(self, width: int) -> np.ndarray | None:
        """Which blocks of `width` neighbours along the last axis hold a value: (rows, blocks of a row); None where the
        row is no multiple of it, or where the values are not known."""
        if self.values is None or not self.shape or not self.shape[-1] or self.shape[-1] % width:
            return None
        blocks = self.values.reshape(-1, self.shape[-1] // width, width)
        return np.asarray((blocks != 0).any(axis=2))


@dataclass(frozen=True, eq=False)
class Operator:
    """An operator of a graph; `options` are the schema's, None where it has none."""

    graph: Graph
    number: int
    kind: str
    version: int
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: Any
    weights: Weights | None

    @property
    def source(self) -> Tensor | None:
        """What the operator computes from: its first input, or the one that is no weight."""
        at = INPUT_AT.get(self.kind, 0)
        return self.inputs[at] if at < len(self.inputs) else None

    @property
    def precision(self) -> Precision:
        """In what the operator computes, by its weights and its input."""
        if self.weights is None or self.source is None:
            return "other"
        return _precision(self.weights.dtype, self.source.dtype)

    @property
    def title(self) -> str:
        """The operator for people: its kind, and the layer it comes from."""
        return f"{self.kind} {self.layer}".rstrip()

    @property
    def layer(self) -> str:
        """The layer, by the name of the tensor written, which the converter makes of `model/layer/step`.

        The model's outputs have other names; there the weights' name tells.
        """
        written = [tensor.name for tensor in self.outputs[:1]]
        names = [*written, *([self.weights.name] if self.weights else [])]
        paths = [name.split(";")[0].split("/") for name in names]
        return next((path[-2] for path in paths if len(path) > 1), "".join(written))


@dataclass(frozen=True, eq=False)
class Graph:
    """A subgraph: its tensors, what it takes and gives, and its operators in the order they run in."""

    tensors: tuple[Tensor, ...]
    inputs: frozenset[int]
    outputs: frozenset[int]
    operators: list[Operator]

    @functools.cached_property
    def producers(self) -> dict[int, Operator]:
        """Who writes a tensor, by the tensor's number."""
        return {tensor.number: operator for operator in self.operators for tensor in operator.outputs}

    @functools.cached_property
    def readers(self) -> dict[int, list[Operator]]:
        """Who reads a tensor, by the tensor's number; each reader once."""
        found: dict[int, list[Operator]] = {}
        for operator in self.operators:
            for number in sorted({tensor.number for tensor in operator.inputs if tensor is not None}):
                found.setdefault(number, []).append(operator)
        return found

    @functools.cached_property
    def static(self) -> frozenset[int]:
        """Tensors whose values are known when the file is loaded: constants, and what is unpacked from them."""
        found = {tensor.number for tensor in self.tensors if tensor.constant}
        for operator in self.operators:
            inputs = {tensor.number for tensor in operator.inputs if tensor is not None}
            if operator.kind in UNPACKING and inputs <= found:
                found |= {tensor.number for tensor in operator.outputs}
        return frozenset(found)

    def unpacks(self, operator: Operator) -> bool:
        """Whether the operator only prepares a constant."""
        return all(tensor.number in self.static for tensor in operator.outputs)

    @property
    def computing(self) -> list[Operator]:
        """The operators but for those that only prepare constants."""
        return [operator for operator in self.operators if not self.unpacks(operator)]


def read_graphs(content: bytes, name: str) -> list[Graph]:
    """Every subgraph of a .tflite file; `name` names the file in errors. Raises `UserError` for a damaged one."""
    model = read_model(content, name)
    with damage_is_told(name):
        return [view(model, subgraph) for subgraph in model.subgraphs or []]


def view(model: Any, subgraph: Any) -> Graph:
    """The view of a `SubGraphT` of a `ModelT`; later changes of them do not show in it."""
    tensors = tuple(_tensor(model, number, tensor) for number, tensor in enumerate(_list(subgraph.tensors)))
    graph = Graph(tensors, frozenset(_numbers(subgraph.inputs)), frozenset(_numbers(subgraph.outputs)), [])
    writers = {int(number): each for each in _list(subgraph.operators) for number in _list(each.outputs)}
    for number, operator in enumerate(_list(subgraph.operators)):
        kind, version = kind_of(model, operator)
        inputs = tuple(tensors[at] if at >= 0 else None for at in _numbers(operator.inputs))
        outputs = tuple(tensors[at] for at in _numbers(operator.outputs))
        weights = _weights(model, subgraph, writers, operator, kind)
        found = Operator(graph, number, kind, version, inputs, outputs, operator.builtinOptions, weights)
        graph.operators.append(found)
    return graph


def kind_of(model: Any, operator: Any) -> tuple[str, int]:
    """The name of an operator as the schema spells it (`CUSTOM: name` for one of its own), and its version."""
    code = model.operatorCodes[operator.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    if number == schema().BuiltinOperator.CUSTOM:
        return f"CUSTOM: {(code.customCode or b'').decode(errors='replace')}", int(code.version)
    return _names("BuiltinOperator").get(number, f"operator {number}"), int(code.version)


@functools.cache
def _names(enumeration: str) -> dict[int, str]:
    values = vars(getattr(schema(), enumeration))
    return {value: name for name, value in values.items() if not name.startswith("_")}


def _tensor(model: Any, number: int, tensor: Any) -> Tensor:
    shape = tuple(_numbers(tensor.shape))
    dtype = _names("TensorType").get(tensor.type, f"type {tensor.type}").lower()
    data = np.asarray(_list(model.buffers[tensor.buffer].data), np.uint8)
    fixed = min((*_numbers(tensor.shapeSignature), *shape, 0)) >= 0
    small = dtype == "int32" and 0 < data.nbytes <= SMALL
    integers = tuple(_numbers(data.view("<i4"))) if small else None
    name = (tensor.name or b"").decode(errors="replace")
    return Tensor(number, name, shape, dtype, data.nbytes > 0, fixed, integers)


def _weights(model: Any, subgraph: Any, writers: dict[int, Any], operator: Any, kind: str) -> Weights | None:
    """The weights, followed to where they are stored; None where the operator has none that are constant."""
    at = WEIGHTS_AT.get(kind)
    if at is None or at >= len(operator.inputs) or operator.inputs[at] < 0:
        return None
    number, densified = int(operator.inputs[at]), False
    seen: set[int] = set()
    while number in writers and number not in seen:
        seen.add(number)
        unpacker, _ = kind_of(model, writers[number])
        if unpacker not in UNPACKING:
            return None
        densified |= unpacker == "DENSIFY"
        number = int(writers[number].inputs[0])
    tensor = subgraph.tensors[number]
    stored = _tensor(model, number, tensor)
    if not stored.constant or stored.dtype not in DTYPES:
        return None
    values = np.asarray(model.buffers[tensor.buffer].data, np.uint8).view(DTYPES[stored.dtype])
    if stored.dtype == "uint8" and tensor.quantization is not None:
        values = values.astype(np.int16) - int(_list(tensor.quantization.zeroPoint)[0])
    count, encoding = int(np.count_nonzero(values)), _encoding(tensor, densified)
    whole = _expand(tensor, values, stored.shape) if tensor.sparsity else values.reshape(stored.shape)
    return Weights(number, stored.name, stored.shape, stored.dtype, encoding, count, whole)


def _expand(tensor: Any, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Sparse values in their places; None for more than the file can pay for, or several blocked dimensions."""
    sparsity, rank = tensor.sparsity, len(shape)
    order, blocks = _numbers(sparsity.traversalOrder), _numbers(sparsity.blockMap)
    metadata = _list(sparsity.dimMetadata)
    if len(order) != len(metadata) or order[rank:] != [rank] * len(blocks) or len(blocks) > 1:
        return None
    levels = tuple(_level(each) for each in metadata[:rank])
    stored = values.nbytes + sum(each.segments.size + each.indices.size for each in levels if each)
    if np.prod(shape, dtype=np.int64) > MOST_ZEROS * (stored + SMALL):
        return None
    block = (blocks[0], int(metadata[rank].denseSize)) if blocks else None
    layout = Layout(tuple(order[:rank]), tuple(each is not None for each in levels), block)
    return decode(SparseTensor(shape, layout, values, levels))


def _level(metadata: Any) -> Level | None:
    if metadata.format != schema().DimensionType.SPARSE_CSR:
        return None
    segments, indices = (np.asarray(each.values) for each in (metadata.arraySegments, metadata.arrayIndices))
    return Level(segments, indices)


def _encoding(tensor: Any, densified: bool) -> Encoding:
    if tensor.sparsity is None:
        return "dense"
    if densified:
        return "csr_densify"
    blocks = _list(tensor.sparsity.blockMap)
    if not len(blocks):
        return "fc_unstructured"
    return "fc_1x16" if int(tensor.sparsity.dimMetadata[-1].denseSize) == 16 else "fc_1x4"


def _precision(weights: str, source: str) -> Precision:
    if source == "float32":
        known: dict[str, Precision] = {
            "float32": "float32",
            "float16": "float16",
            "int8": "dynamic_range",
            "uint8": "dynamic_range",
        }
        return known.get(weights, "other")
    return "int8" if weights in ("int8", "uint8") and source in ("int8", "uint8", "int16") else "other"


def _list(vector: Any) -> Any:
    return [] if vector is None else vector


def _numbers(vector: Any) -> list[int]:
    return [int(number) for number in _list(vector)]

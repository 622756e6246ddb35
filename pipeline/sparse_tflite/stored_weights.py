"""The weights of an operator, found where they are stored and read in whatever encoding."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pipeline.sparse_tflite.encode import stored_as
from pipeline.sparse_tflite.encoding import Layout, Level, SparseTensor, decode
from pipeline.sparse_tflite.schema import schema
from pipeline.sparse_tflite.tables import SMALL, kind_of, numbers, read_tensor, vector

Encoding = Literal["dense", "csr_densify", "fc_1x4", "fc_1x16", "fc_unstructured"]
BLOCKS: dict[Encoding, int] = {"fc_1x4": 4, "fc_1x16": 16}
# Where the weights stand among the inputs of the operators that have any.
WEIGHTS_AT = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1, "TRANSPOSE_CONV": 1}
# What makes other values of a constant before the first inference, without changing them.
UNPACKING = ("DENSIFY", "DEQUANTIZE")
DTYPES = {"float32": "<f4", "float16": "<f2", "int8": "i1", "uint8": "u1"}
# The most weights that a stored byte may stand for: a shape that lies must not cost memory.
MOST_ZEROS = 64


@dataclass(frozen=True, eq=False)
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

    def stored_bytes(self, encoding: Encoding) -> int | None:
        """Bytes of the weights in an encoding, index arrays included; None where it does not fit, or is not known."""
        if encoding == "dense":
            return self.size * np.dtype(self.dtype).itemsize
        if self.values is None or self.nonzero_blocks(BLOCKS.get(encoding, 1)) is None:
            return None
        return stored_as(self.values, encoding).nbytes


def read_weights(
    model: Any, subgraph: Any, writers: dict[int, Any], operator: Any, kind: str
) -> Weights | None:
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
    stored = read_tensor(model, number, tensor)
    if not stored.constant or stored.dtype not in DTYPES:
        return None
    values = np.asarray(model.buffers[tensor.buffer].data, np.uint8).view(DTYPES[stored.dtype])
    if stored.dtype == "uint8" and tensor.quantization is not None:
        values = values.astype(np.int16) - int(vector(tensor.quantization.zeroPoint)[0])
    count, encoding = int(np.count_nonzero(values)), _encoding(tensor, densified)
    whole = _expand(tensor, values, stored.shape) if tensor.sparsity else values.reshape(stored.shape)
    return Weights(number, stored.name, stored.shape, stored.dtype, encoding, count, whole)


def _expand(tensor: Any, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Sparse values in their places; None for more than the file can pay for, or several blocked dimensions."""
    sparsity, rank = tensor.sparsity, len(shape)
    order, blocks = numbers(sparsity.traversalOrder), numbers(sparsity.blockMap)
    metadata = vector(sparsity.dimMetadata)
    if sorted(order[:rank]) != list(range(rank)) or 0 in shape:
        # Sizes that the product of the shape does not show.
        return None
    if len(order) != len(metadata) or order[rank:] != [rank] * len(blocks) or len(blocks) > 1:
        return None
    levels = tuple(_level(each) for each in metadata[:rank])
    stored = values.nbytes + sum(each.segments.size + each.indices.size for each in levels if each)
    if math.prod(shape) > MOST_ZEROS * (stored + SMALL):
        return None
    block = (blocks[0], int(metadata[rank].denseSize)) if blocks else None
    if block and shape[block[0]] % max(block[1], 1):
        return None
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
    blocks = vector(tensor.sparsity.blockMap)
    if not len(blocks):
        return "fc_unstructured"
    return "fc_1x16" if int(tensor.sparsity.dimMetadata[-1].denseSize) == 16 else "fc_1x4"

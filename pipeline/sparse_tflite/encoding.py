"""TFLite's sparse format of a tensor: which of its dimensions store only what is not zero, and in which order.

The format is that of TACO (Kjolstad et al., "The Tensor Algebra Compiler", 2017): the dimensions form the levels of a
tree. A dense level has every index below each of its parents, a sparse one (`SPARSE_CSR`) lists those that are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Layout:
    """`order`: the dimensions from the outermost level to the innermost; `sparse`: of each level, whether it is.

    `block` (dimension, size) cuts that dimension into blocks, which are stored whole, as one last level.
    """

    order: tuple[int, ...]
    sparse: tuple[bool, ...]
    block: tuple[int, int] | None = None

    @property
    def block_size(self) -> int:
        """The values that are stored together; 1 without blocks."""
        return self.block[1] if self.block else 1

    def level_sizes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The number of indices at each level, for a tensor of `shape`."""
        return tuple(
            shape[at] // (self.block[1] if self.block and self.block[0] == at else 1) for at in self.order
        )


@dataclass(frozen=True)
class Level:
    """A sparse level: its node i has the children `indices[segments[i]:segments[i + 1]]`."""

    segments: Array
    indices: Array


@dataclass(frozen=True)
class SparseTensor:
    """A tensor of `shape` in `layout`: `values` (nodes * block size,), `levels` None where they are dense.

    Index arrays have the smallest type that holds them.
    """

    shape: tuple[int, ...]
    layout: Layout
    values: Array
    levels: tuple[Level | None, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the values and of all index arrays."""
        indices = sum(level.segments.nbytes + level.indices.nbytes for level in self.levels if level)
        return int(self.values.nbytes + indices)


def csr(rank: int) -> Layout:
    """All dimensions dense but the last: the only layout of TensorFlow's own converter besides blocks."""
    return Layout(tuple(range(rank)), (*[False] * (rank - 1), True))


def rows_of_blocks(block: int) -> Layout:
    """A matrix (outputs, inputs) by blocks of 1 x `block`; `block` 1 is by single weights."""
    return Layout((0, 1), (False, True), (1, block) if block > 1 else None)


def encode(tensor: Array, layout: Layout) -> SparseTensor:
    """Store `tensor`; the blocked dimension must be a multiple of the block.

    A tensor of nothing but zeros keeps its first block: the runtimes take a constant without any data for one that
    was never given.
    """
    arranged = _arranged(tensor, layout)
    # One step a value of the block: numpy reduces a short last axis slowly.
    used = arranged[..., 0] != 0
    for at in range(1, layout.block_size):
        used = used | (arranged[..., at] != 0)
    used.flat[0] |= not used.any()
    nodes = np.zeros(1, np.int64)
    levels: list[Level | None] = []
    for depth, (size, is_sparse) in enumerate(zip(used.shape, layout.sparse, strict=True), 1):
        children = nodes[:, None] * size + np.arange(size)
        if is_sparse:
            below = used.reshape(int(np.prod(used.shape[:depth])), -1)
            stored = np.asarray(below.any(axis=1) if below.shape[1] > 1 else below[:, 0])[children]
            segments = np.concatenate([[0], np.cumsum(stored.sum(axis=1))])
            levels.append(Level(_smallest(segments), _smallest(np.nonzero(stored)[1])))
            nodes = children[stored]
        else:
            levels.append(None)
            nodes = children.ravel()
    values = arranged.reshape(used.size, layout.block_size)[nodes].ravel()
    return SparseTensor(tensor.shape, layout, values, tuple(levels))


def decode(sparse: SparseTensor) -> Array:
    """The tensor that `encode` stored."""
    layout = sparse.layout
    sizes = layout.level_sizes(sparse.shape)
    nodes = np.zeros(1, np.int64)
    for size, level in zip(sizes, sparse.levels, strict=True):
        if level is None:
            nodes = (nodes[:, None] * size + np.arange(size)).ravel()
        else:
            nodes = np.repeat(nodes, np.ediff1d(level.segments.astype(np.int64))) * size + level.indices
    arranged = np.zeros((int(np.prod(sizes)), layout.block_size), sparse.values.dtype)
    arranged[nodes] = sparse.values.reshape(-1, layout.block_size)
    tensor = np.empty(sparse.shape, sparse.values.dtype)
    _arranged(tensor, layout)[:] = arranged.reshape(*sizes, layout.block_size)
    return tensor


def _arranged(tensor: Array, layout: Layout) -> Array:
    """A view with a dimension for each level, and one for the inside of a block."""
    if layout.block is None:
        return tensor.transpose(layout.order)[..., None]
    at, size = layout.block
    if tensor.shape[at] % size:
        raise ValueError(f"expected a dimension in multiples of {size}, received {tensor.shape[at]}")
    cut = tensor.reshape(*tensor.shape[:at], tensor.shape[at] // size, size, *tensor.shape[at + 1 :])
    # After the cut, a dimension behind the blocked one stands one place further.
    return cut.transpose(*[each + (each > at) for each in layout.order], at + 1)


def estimated_bytes(rows: int, columns: int, nonzeros: int) -> int:
    """The most bytes that a (rows, columns) matrix with so many nonzeros takes, stored by its unstructured rows."""
    values = max(nonzeros, 1)
    index = index_type(columns - 1).itemsize
    return (4 + index) * values + index_type(values).itemsize * (rows + 1)


def index_type(highest: int) -> np.dtype[Any]:
    """The smallest type of an index array that holds `highest`."""
    return np.dtype(np.uint8 if highest <= 0xFF else np.uint16 if highest <= 0xFFFF else np.int32)


def _smallest(indices: Array) -> Array:
    return indices.astype(index_type(int(indices.max(initial=0))))

"""TFLite's sparse layouts of a matrix: unstructured rows, and rows of 1 x 4 blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

BLOCK = 4


@dataclass(frozen=True)
class SparseMatrix:
    """A (rows, columns) matrix by its nonzero blocks of 1 x `block` values.

    `values` (blocks * block,) float32; `indices` (blocks,) block columns; row i owns the blocks
    `segments[i]` to `segments[i + 1]`; index arrays in the smallest type that holds them.
    """

    name: str
    rows: int
    block: int
    values: np.ndarray
    segments: np.ndarray
    indices: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes of the values and both index arrays."""
        return int(self.values.nbytes + self.segments.nbytes + self.indices.nbytes)


def encode(matrix: np.ndarray, block: int) -> SparseMatrix:
    """Lay out a (rows, columns) float32 matrix; `columns` must be a multiple of `block`."""
    rows, columns = matrix.shape
    if columns % block:
        raise ValueError(f"expected columns in multiples of {block}, received {columns}")
    blocks = matrix.reshape(rows, columns // block, block)
    used = np.asarray(blocks.any(axis=2))
    if not used.any():
        # The runtimes take a constant without any data for one that was never given.
        used[0, 0] = True
    row_of, indices = np.nonzero(used)
    segments = np.concatenate([[0], np.cumsum(used.sum(axis=1))])
    name = "unstructured" if block == 1 else f"1x{block}"
    return SparseMatrix(
        name, rows, block, blocks[row_of, indices].ravel(), _smallest(segments), _smallest(indices)
    )


def decode(sparse: SparseMatrix, columns: int) -> np.ndarray:
    """The (rows, columns) matrix that `encode` laid out."""
    blocks = np.zeros((sparse.rows, columns // sparse.block, sparse.block), np.float32)
    row_of = np.repeat(np.arange(sparse.rows), np.ediff1d(sparse.segments.astype(np.int64)))
    blocks[row_of, sparse.indices] = sparse.values.reshape(-1, sparse.block)
    return blocks.reshape(sparse.rows, columns)


def smallest(matrix: np.ndarray) -> SparseMatrix:
    """The layout with the fewest bytes; at equal size the blocks, whose kernel is the faster one."""
    layouts = [encode(matrix, block) for block in (BLOCK, 1) if matrix.shape[1] % block == 0]
    return min(layouts, key=lambda layout: layout.nbytes)


def estimated_bytes(rows: int, columns: int, nonzeros: int) -> int:
    """The most bytes that a (rows, columns) matrix with so many nonzeros takes, stored by its unstructured rows."""
    values = max(nonzeros, 1)
    index = np.dtype(_smallest_type(columns - 1)).itemsize
    return (4 + index) * values + np.dtype(_smallest_type(values)).itemsize * (rows + 1)


def _smallest(indices: np.ndarray) -> np.ndarray:
    return indices.astype(_smallest_type(int(indices.max(initial=0))))


def _smallest_type(highest: int) -> type[np.integer[Any]]:
    return np.uint8 if highest <= 0xFF else np.uint16 if highest <= 0xFFFF else np.int32

"""The layout in which a tensor takes the fewest bytes, among those that the sparse format has."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.sparse_tflite.encoding import Layout, csr, index_type

BLOCKS = (2, 4, 8, 16)
# What TensorFlow's own converter writes stays the layout, unless another one is smaller by more than this.
WORTH = 0.02

# The number of nonzero cells that are left when all dimensions but these are merged.
Counts = Mapping[frozenset[int], int]


def smallest_layout(tensor: NDArray[Any]) -> Layout:
    """The layout of `tensor` with the fewest bytes, or one within 2 % of it.

    Searched are every order of the dimensions, every choice of sparse ones, and blocks of 2 to 16 along one of them.
    """
    usual, used = csr(tensor.ndim), tensor != 0
    counts = _counts(used)
    least, layout = _bytes(usual, tensor.shape, counts, tensor.itemsize), usual
    least = int(least * (1 - WORTH))
    for block, cells in _blocked(used):
        # However they are indexed, the blocks' values are stored.
        if block is not None and np.count_nonzero(cells) * block[1] * tensor.itemsize >= least:
            continue
        counts = counts if block is None else _counts(cells)
        for candidate in _layouts(tensor.shape, block):
            taken = _bytes(candidate, tensor.shape, counts, tensor.itemsize)
            if taken < least:
                least, layout = taken, candidate
    return layout


def _blocked(used: NDArray[np.bool_]) -> Iterator[tuple[tuple[int, int] | None, NDArray[np.bool_]]]:
    """Which cells are used, single ones and in every block that divides a dimension."""
    yield None, used
    for at in range(used.ndim):
        cells = used
        for size in BLOCKS:
            if used.shape[at] % size:
                break
            # Two blocks of the size before make one, and each size is twice that.
            before = (slice(None),) * at
            cells = cells[(*before, slice(0, None, 2))] | cells[(*before, slice(1, None, 2))]
            yield (at, size), cells


def _layouts(shape: tuple[int, ...], block: tuple[int, int] | None) -> Iterator[Layout]:
    """All that differ: where a dimension of one index stands makes no difference."""
    sizes = Layout(tuple(range(len(shape))), (), block).level_sizes(shape)
    single = tuple(at for at, size in enumerate(sizes) if size == 1)
    wide = [at for at, size in enumerate(sizes) if size > 1]
    for order in itertools.permutations(wide):
        for sparse in itertools.product((False, True), repeat=len(wide)):
            if any(sparse):
                yield Layout((*single, *order), (*[False] * len(single), *sparse), block)


def _bytes(layout: Layout, shape: tuple[int, ...], counts: Counts, itemsize: int) -> int:
    """What `encode` stores, but for an index array of a smaller type where the last indices are not used."""
    taken, nodes = 0, 1
    for depth, (size, sparse) in enumerate(zip(layout.level_sizes(shape), layout.sparse, strict=True), 1):
        if sparse:
            stored = counts[frozenset(layout.order[:depth])]
            taken += (nodes + 1) * _index_bytes(stored) + stored * _index_bytes(size - 1)
            nodes = stored
        else:
            nodes *= size
    return taken + nodes * layout.block_size * itemsize


@functools.lru_cache(maxsize=1 << 12)
def _index_bytes(highest: int) -> int:
    return index_type(highest).itemsize


def _counts(used: NDArray[np.bool_]) -> dict[frozenset[int], int]:
    every = frozenset(range(used.ndim))
    merged = {every: used}
    for width in range(used.ndim - 1, 0, -1):
        for kept in map(frozenset, itertools.combinations(sorted(every), width)):
            dropped = min(every - kept)
            wider = kept | {dropped}
            merged[kept] = np.asarray(merged[wider].any(axis=sorted(wider).index(dropped)))
    return {kept: max(1, int(np.count_nonzero(cells))) for kept, cells in merged.items()}

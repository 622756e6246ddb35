"""The sparse format of a tensor, by brute force over all layouts of small ones."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.sparse_tflite.encoding import Layout, csr, decode, encode, rows_of_blocks
from pipeline.sparse_tflite.smallest import BLOCKS, WORTH, smallest_layout


def tensors(most: int = 4) -> Any:
    elements = st.sampled_from([0, 0, 0, 1, -2])
    shapes = st.lists(st.integers(1, 5), min_size=1, max_size=most).map(tuple)
    dtypes = st.sampled_from([np.float32, np.float16, np.int8])
    return st.tuples(dtypes, shapes).flatmap(lambda drawn: arrays(*drawn, elements=elements))


def every_layout(shape: tuple[int, ...]) -> list[Layout]:
    rank = len(shape)
    cuts = [(at, size) for at in range(rank) for size in BLOCKS if shape[at] % size == 0]
    return [
        Layout(order, sparse, block)
        for order in itertools.permutations(range(rank))
        for sparse in itertools.product((False, True), repeat=rank)
        for block in (None, *cuts)
    ]


@given(tensors(), st.randoms(use_true_random=False))
def test_every_layout_gives_back_the_tensor(tensor: np.ndarray, random: Any) -> None:
    layout = random.choice(every_layout(tensor.shape))
    stored = encode(tensor, layout)
    again = decode(stored)
    assert again.dtype == tensor.dtype and np.array_equal(again, tensor)
    indices = [each for level in stored.levels if level for each in (level.segments, level.indices)]
    assert stored.nbytes == stored.values.nbytes + sum(each.nbytes for each in indices)


@settings(max_examples=40)
@given(tensors(3))
def test_the_smallest_layout_is_the_smallest_there_is(tensor: np.ndarray) -> None:
    best = min(encode(tensor, layout).nbytes for layout in every_layout(tensor.shape) if any(layout.sparse))
    found = encode(tensor, smallest_layout(tensor)).nbytes
    assert found <= encode(tensor, csr(tensor.ndim)).nbytes
    # Of tensors as small as these, 2 % are less than a byte. Where dense is smaller, nobody stores sparsely.
    assert min(found, tensor.nbytes) * (1 - WORTH) - 1 <= best


def test_layout_of_a_small_matrix() -> None:
    matrix = np.array([[0, 5, 0, 0], [0, 0, 0, 0], [1, 0, 0, 2]], np.float32)
    plain = encode(matrix, rows_of_blocks(1))
    (rows, level) = plain.levels
    assert rows is None and level is not None and rows_of_blocks(1) == csr(2)
    assert plain.values.tolist() == [5, 1, 2]
    assert level.segments.tolist() == [0, 1, 1, 3] and level.indices.tolist() == [1, 0, 3]
    blocks = encode(matrix, rows_of_blocks(4))
    level = blocks.levels[1]
    assert level is not None and blocks.values.tolist() == [0, 5, 0, 0, 1, 0, 0, 2]
    assert level.segments.tolist() == [0, 1, 1, 2] and level.indices.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("columns", "kind"), [(256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "int32")]
)
def test_indices_take_the_smallest_type_that_holds_them(columns: int, kind: str) -> None:
    matrix = np.zeros((1, columns), np.float32)
    matrix[0, -1] = 1
    level = encode(matrix, csr(2)).levels[1]
    assert level is not None and level.indices.dtype == kind


def test_what_was_pruned_in_blocks_is_stored_in_blocks() -> None:
    random = np.random.default_rng(0)
    kernel = random.normal(size=(16, 3, 3, 32)).astype(np.float32)
    assert smallest_layout(np.where(random.random(kernel.shape) < 0.1, kernel, 0)) == csr(4)
    kept = np.repeat(random.random((16, 3, 3, 8)) < 0.1, 4, axis=3)
    assert smallest_layout(np.where(kept, kernel, 0)).block == (3, 4)
    kept = np.repeat(random.random((8, 3, 3, 32)) < 0.1, 2, axis=0)
    assert smallest_layout(np.where(kept, kernel, 0)).block == (0, 2)


def test_a_dimension_that_is_no_multiple_of_the_block_is_refused() -> None:
    with pytest.raises(ValueError, match="in multiples of 4, received 6"):
        encode(np.ones((2, 6), np.float32), rows_of_blocks(4))


@pytest.mark.parametrize("share", [0.5, 0.7, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_from_half_zeros_on_kernels_shrink(share: float, dtype: type) -> None:
    random = np.random.default_rng(1)
    for shape in ((64, 3, 3, 32), (128, 1, 1, 300), (1, 3, 3, 64), (100, 200)):
        kernel = np.where(random.random(shape) < share, 0, 1).astype(dtype)
        stored = encode(kernel, smallest_layout(kernel)).nbytes
        assert kernel[kernel != 0].nbytes < stored < kernel.nbytes * (1.05 if share == 0.5 else 1)

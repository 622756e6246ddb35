from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.pruning import masks

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)
SCORES = hnp.arrays(np.float32, SHAPES, elements=st.sampled_from([0, 1, 2, 3]))


@given(st.lists(SCORES, min_size=1, max_size=4), st.floats(0, 0.999))
def test_exactly_the_lowest_are_removed_however_many_are_equal(
    scores: list[np.ndarray], sparsity: float
) -> None:
    size = sum(score.size for score in scores)
    removed = masks.removals(sparsity, size)
    found = masks.by_count(scores, removed)
    assert [mask.shape for mask in found] == [score.shape for score in scores]
    stays = np.concatenate([mask.ravel() for mask in found])
    every = np.concatenate([score.ravel() for score in scores])
    assert np.count_nonzero(~stays) == removed
    if 0 < removed < size:
        assert every[~stays].max() <= every[stays].min()
    # Of the equal ones the first go.
    for value in np.unique(every):
        assert np.all(np.diff(stays[every == value].astype(int)) >= 0)


def test_one_threshold_for_several_arrays_may_empty_one() -> None:
    small, large = masks.by_count([np.array([[0.1, 0.2]]), np.array([[3.0], [0.3], [2.0]])], 3)
    assert not small.any()
    assert large.tolist() == [[True], [False], [True]]


def test_no_arrays_give_no_masks() -> None:
    assert masks.by_count([], 0) == []

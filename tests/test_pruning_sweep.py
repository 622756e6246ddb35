"""Blocks and sweeps against brute force and the exact search."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from pipeline.pruning import masks, obs, sweep
from pipeline.pruning.granularity import Granularity, parse
from pipeline.pruning.layer import Quota
from tests.test_pruning_obs import best_on, loss, problem


def test_the_root_is_that_of_the_inverse() -> None:
    _, hessian = problem(0, d=7)
    root = sweep.root_of_inverse(hessian)
    assert not np.tril(root, -1).any()
    np.testing.assert_allclose(root.T @ root @ hessian, np.eye(7), atol=1e-8)
    np.testing.assert_allclose(root[3:, 3:].T @ root[3:, 3:] @ hessian[3:, 3:], np.eye(4), atol=1e-8)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("inputs", "outputs"), [(2, 1), (4, 1), (1, 2), (2, 3)])
def test_the_first_block_is_the_best_of_all_blocks(seed: int, inputs: int, outputs: int) -> None:
    weight, hessian = problem(seed, d=6, r=4)
    steps = -(-6 // inputs)
    order, losses = obs.removal_order(weight, hessian, steps, inputs, outputs)
    for row, start in enumerate(range(0, 4, outputs)):
        together = weight[:, start : start + outputs].T

        def reach(gone: set[int], together: np.ndarray = together) -> float:
            support = [i for i in range(6) if i // inputs not in gone]
            return sum(loss(best_on(w, hessian, support) - w, hessian) for w in together)

        gone: set[int] = set()
        for k, block in enumerate(order[row]):
            each = {other: reach(gone | {other}) for other in range(steps) if other not in gone}
            assert each[int(block)] == pytest.approx(min(each.values()), rel=1e-6)
            gone.add(int(block))
            assert losses[row, : k + 1].sum() == pytest.approx(each[int(block)], rel=1e-6)
        assert sorted(order[row]) == list(range(steps))


def test_a_pattern_stops_in_each_group_at_what_it_keeps() -> None:
    weight, hessian = problem(1, d=10, r=3)
    order, _ = obs.removal_order(weight, hessian, parse("2:4").removed_by_pattern(10), pattern=(2, 4))
    for row in order:
        assert np.bincount(row // 4, minlength=3).tolist() == [2, 2, 0]
        assert len(set(row)) == 4


def test_under_an_identity_hessian_a_sweep_is_magnitude() -> None:
    weight = np.random.default_rng(0).normal(size=(300, 5))
    swept, mask = sweep.sweep(weight, np.eye(300), parse("element"), Quota(900))
    (expected,) = masks.by_count([np.abs(weight)], 900)
    assert np.array_equal(mask, expected)
    np.testing.assert_array_equal(swept, np.where(mask, weight, 0))


@pytest.mark.parametrize("name", ["element", "1x4", "output2", "output4", "2:4"])
@pytest.mark.parametrize("evenly", [False, True])
def test_a_sweep_removes_its_quota_and_leaves_whole_blocks(name: str, evenly: bool) -> None:
    weight, hessian = problem(2, d=150, r=6, n=400)
    granularity = parse(name)
    along, across = granularity.grid(weight.shape)
    quota = None if granularity.pattern else Quota(along // 2 * across, evenly)
    swept, mask = sweep.sweep(weight, sweep.root_of_inverse(hessian), granularity, quota)
    assert not swept[~mask].any()
    if quota is None:
        assert (np.count_nonzero(mask, axis=0) == 76).all()
        return
    blocks = granularity.fold(mask.astype(int))
    sizes = granularity.fold(np.ones(mask.shape, int))
    assert np.all((blocks == 0) | (blocks == sizes))
    assert np.count_nonzero(blocks == 0) == quota.blocks
    if evenly:
        assert (np.count_nonzero(blocks, axis=0) == along - along // 2).all()


def test_a_sweep_is_better_than_magnitude_and_a_solve_better_than_the_sweep() -> None:
    random = np.random.default_rng(3)
    x = random.normal(size=(200, 60)) @ (np.eye(60) + 0.2 * random.normal(size=(60, 60)))
    weight, hessian = random.normal(size=(60, 4)), 2 * x.T @ x / 200

    def total(found: np.ndarray) -> float:
        return sum(loss(moved, hessian) for moved in (found - weight).T)

    swept, mask = sweep.sweep(weight, sweep.root_of_inverse(hessian), parse("element"), Quota(120))
    solved = obs.refit(hessian, hessian @ weight, mask)
    (largest,) = masks.by_count([np.abs(weight)], 120)
    assert total(solved) <= total(swept) < total(np.where(largest, weight, 0))
    for column, support in enumerate(mask.T):
        exact = best_on(weight[:, column], hessian, list(np.flatnonzero(support)))
        np.testing.assert_allclose(solved[:, column], exact, atol=1e-6)


def test_a_sweep_over_two_inputs_is_exact() -> None:
    """With the last input of each pair kept, what the sweep moves is the least squares."""
    weight, hessian = problem(4, d=2, r=1)
    swept, mask = sweep.sweep(weight, sweep.root_of_inverse(hessian), parse("element"), Quota(1))
    if not mask[0, 0]:
        np.testing.assert_allclose(swept[:, 0], best_on(weight[:, 0], hessian, [1]))
    costs = [
        loss(best_on(weight[:, 0], hessian, list(one)) - weight[:, 0], hessian)
        for one in combinations(range(2), 1)
    ]
    assert sweep.scores(weight, hessian, sweep.root_of_inverse(hessian), parse("element")).sum() >= min(costs)


def test_scores_of_a_sweep_rise_and_add_up_to_the_whole_loss() -> None:
    weight, hessian = problem(5, d=40, r=8, n=100)
    found = sweep.scores(weight, hessian, sweep.root_of_inverse(hessian), parse("element"))
    assert found.shape == (40, 8)
    assert (np.diff(found.ravel()) >= 0).all()
    assert found.sum() >= np.sum(weight * (hessian @ weight)) / 2 * (1 - 1e-9)


def test_granularities_are_read_and_unknown_ones_refused() -> None:
    assert parse("1x4") == Granularity("1x4", 4, 1)
    assert parse("2:4").pattern == (2, 4)
    with pytest.raises(ValueError, match=r"0 < N < M.*'4:4'"):
        parse("4:4")
    with pytest.raises(ValueError, match="unknown granularity '1x5'; known: element, 1x4"):
        parse("1x5")


@pytest.mark.parametrize("name", ["element", "1x4", "output2", "output4"])
@pytest.mark.parametrize("shape", [(4, 4), (9, 5), (3, 1)])
def test_blocks_cover_a_kernel(name: str, shape: tuple[int, int]) -> None:
    granularity = parse(name)
    values = np.random.default_rng(0).normal(size=shape)
    blocks = granularity.fold(values)
    assert blocks.shape == granularity.grid(shape)
    assert blocks.sum() == pytest.approx(values.sum())
    for i, j in np.ndindex(*shape):
        place = i // granularity.inputs, j // granularity.outputs
        assert granularity.expand(blocks, shape)[i, j] == blocks[place]
    np.testing.assert_allclose(granularity.norm(values), np.sqrt(granularity.fold(values**2)))
    sizes = sorted(granularity.fold(np.ones(shape, int)).ravel())
    for gone in range(len(sizes) + 1):
        least, most = granularity.left(shape, gone)
        assert (least, most) == (sum(sizes[: len(sizes) - gone]), sum(sizes[gone:]))

"""Optimal Brain Surgeon over all layers at once: against brute force, and on the way through several sparsities."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest

from pipeline.pruning import obs, staged
from tests.test_pruning_gauss_newton import TwoLayers, ones

Array = np.ndarray


def problem(seed: int, p: int) -> tuple[Array, Array]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(40, p)) @ random.normal(size=(p, p))
    return random.normal(size=p), x.T @ x / 40


@pytest.mark.parametrize("lazy", [1, 3, 64])
def test_elimination_is_that_of_one_row(lazy: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staged, "_LAZY", lazy)
    for seed in range(5):
        w, hessian = problem(seed, 9)
        order, _ = obs.removal_order(w[:, None], hessian, 5)
        stays, moved = staged.eliminate(w, np.linalg.inv(hessian), 5, np.ones(9, bool))
        assert set(np.flatnonzero(~stays)) == set(order[0])
        expected = obs.refit(hessian, (hessian @ w)[:, None], stays[:, None])[:, 0]
        np.testing.assert_allclose(moved, expected, atol=1e-8)


def test_where_weights_do_not_interact_greedy_is_the_best_of_all_supports() -> None:
    random = np.random.default_rng(0)
    w, curvature = random.normal(size=8), random.random(8) + 0.1
    stays, moved = staged.eliminate(w, np.diag(1 / curvature), 4, np.ones(8, bool))
    costs = {gone: sum(curvature[list(gone)] * w[list(gone)] ** 2) for gone in combinations(range(8), 4)}
    assert tuple(np.flatnonzero(~stays)) == min(costs, key=lambda gone: costs[gone])
    np.testing.assert_allclose(moved, np.where(stays, w, 0))


def test_what_may_not_go_stays() -> None:
    w, hessian = problem(0, 6)
    may_go = np.arange(6) >= 3
    stays, _ = staged.eliminate(w, np.linalg.inv(hessian), 3, may_go)
    assert stays.tolist() == (~may_go).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_the_joint_update_on_a_support_is_least_squares(seed: int) -> None:
    w, hessian = problem(seed, 7)
    stays = np.random.default_rng(seed).random(7) < 0.5
    expected = obs.refit(hessian, (hessian @ w)[:, None], stays[:, None])[:, 0]
    np.testing.assert_allclose(staged._on_support(hessian, w, stays, 0.0), expected, atol=1e-8)


@pytest.mark.parametrize("direct", [1000, 15, 0])
@pytest.mark.parametrize("positions", [1, 2])
def test_one_path_passes_every_target(direct: int, positions: int) -> None:
    network = TwoLayers(2, n=200, positions=positions)
    removable = ones(network.dense)
    removable[0][-1] = False
    path = list(staged.stages(network, network.dense, removable, [20, 12, 6], direct=direct))
    assert [stage.kept for stage in path] == [24, 16, 10]
    for stage in path:
        for weight, mask, may in zip(stage.weights, stage.masks, removable, strict=True):
            assert mask[~may].all() and not weight[~mask].any()
        assert stage.distances[-1] == pytest.approx(network.distance(stage.weights))
    for before, after in pairwise(path):
        assert all((m[~k] == 0).all() for m, k in zip(after.masks, before.masks, strict=True))
    again = list(staged.stages(network, network.dense, removable, [20, 12, 6], direct=direct))
    for one, other in zip(path, again, strict=True):
        for a, b in zip(one.weights, other.weights, strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_full_matrix_loses_less_than_magnitude() -> None:
    lost = {"obs": 0.0, "magnitude": 0.0}
    for seed in range(5):
        network = TwoLayers(seed, n=200)
        (stage,) = staged.stages(network, network.dense, ones(network.dense), [12])
        smallest = np.sort(np.concatenate([np.abs(w).ravel() for w in network.dense]))[20]
        cut = [np.where(np.abs(w) >= smallest, w, 0) for w in network.dense]
        lost["obs"] += stage.distances[-1]
        lost["magnitude"] += network.distance(cut)
    assert lost["obs"] < lost["magnitude"] / 4


@pytest.mark.parametrize("targets", [[], [5, 5], [3, 9], [33], [0]])
def test_targets_that_make_no_path_are_refused(targets: list[int]) -> None:
    network = TwoLayers()
    with pytest.raises(ValueError, match="falling numbers of weights to keep, from 1 to the 32"):
        list(staged.stages(network, network.dense, ones(network.dense), targets))

"""Optimal Brain Surgeon against brute force, closed forms and the cases in which the answer is known."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.pruning import masks, obs

Array = np.ndarray


def problem(seed: int, d: int = 6, r: int = 3, n: int = 40) -> tuple[Array, Array]:
    """Weights (d, r), and the Hessian of correlated inputs."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, d)) @ random.normal(size=(d, d))
    return random.normal(size=(d, r)), 2 * x.T @ x / n


def loss(moved: Array, hessian: Array) -> float:
    return float(moved @ hessian @ moved) / 2


def best_on(w: Array, hessian: Array, support: list[int]) -> Array:
    """The least-squares weights on a support, by numpy's own solver on H = L L^T."""
    root = np.linalg.cholesky(hessian).T
    best = np.zeros_like(w)
    best[support] = np.linalg.lstsq(root[:, support], root @ w, rcond=None)[0]
    return best


@pytest.mark.parametrize("seed", range(5))
def test_the_first_removal_is_the_best_of_all_single_removals(seed: int) -> None:
    weight, hessian = problem(seed)
    order, losses = obs.removal_order(weight, hessian, 1)
    for row, w in enumerate(weight.T):
        all_losses = [
            loss(best_on(w, hessian, [i for i in range(6) if i != q]) - w, hessian) for q in range(6)
        ]
        assert order[row, 0] == np.argmin(all_losses)
        assert losses[row, 0] == pytest.approx(min(all_losses))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 7))
def test_every_step_is_the_best_of_all_single_removals_from_there(seed: int, d: int) -> None:
    weight, hessian = problem(seed, d, 1)
    order, losses = obs.removal_order(weight, hessian, d)
    assert sorted(order[0]) == list(range(d))
    support, paid = set(range(d)), 0.0
    for q, step in zip(order[0], losses[0], strict=True):
        w = weight[:, 0]
        reach = {p: loss(best_on(w, hessian, sorted(support - {p})) - w, hessian) for p in support}
        paid += step
        assert reach[q] == pytest.approx(min(reach.values()), rel=1e-6, abs=1e-9)
        assert paid == pytest.approx(reach[q], rel=1e-6, abs=1e-9)
        support.remove(q)


def test_greedy_removals_come_close_to_the_best_of_all_supports() -> None:
    greedy, exact, magnitude = [], [], []
    for seed in range(20):
        weight, hessian = problem(seed, d=8, r=1)
        w = weight[:, 0]
        supports = [list(support) for support in combinations(range(8), 4)]
        exact.append(min(loss(best_on(w, hessian, support) - w, hessian) for support in supports))
        greedy.append(obs.removal_order(weight, hessian, 4)[1].sum())
        largest = sorted(np.argsort(-np.abs(w))[:4])
        magnitude.append(loss(np.where(np.isin(np.arange(8), largest), w, 0) - w, hessian))
        assert greedy[-1] >= exact[-1] * (1 - 1e-9)
    assert np.median(np.array(greedy) / exact) < 1.2
    assert np.median(np.array(magnitude) / exact) > 5


def test_refitted_weights_are_the_least_squares_of_their_support() -> None:
    weight, hessian = problem(1)
    mask = np.random.default_rng(2).random(weight.shape) < 0.5
    mask[:, 0] = False
    refitted = obs.refit(hessian, hessian @ weight, mask)
    assert not refitted[~mask].any()
    for column in range(weight.shape[1]):
        expected = best_on(weight[:, column], hessian, list(np.flatnonzero(mask[:, column])))
        np.testing.assert_allclose(refitted[:, column], expected, atol=1e-10)


def test_under_an_identity_hessian_the_smallest_go_and_the_others_stay() -> None:
    weight, _ = problem(3)
    order, losses = obs.removal_order(weight, np.eye(6), 4)
    assert order.tolist() == np.argsort(np.abs(weight.T), axis=1)[:, :4].tolist()
    np.testing.assert_allclose(losses, np.sort(weight.T**2 / 2, axis=1)[:, :4])
    mask = np.abs(weight) > 0.5
    np.testing.assert_allclose(obs.refit(np.eye(6), weight, mask), weight * mask)


def test_a_budget_goes_to_the_row_whose_next_removal_costs_least() -> None:
    losses = np.array([[1.0, 5.0, 2.0, 9.0], [3.0, 4.0, 4.5, 6.0]])
    (stays,) = masks.by_count([obs.in_order(losses)], 6)
    taken, next_step = [], [0, 0]
    for _ in range(6):
        row = int(np.argmin([losses[row, step] for row, step in enumerate(next_step)]))
        taken.append(row)
        next_step[row] += 1
    assert (~stays).sum(axis=1).tolist() == next_step == [3, 3]
    assert taken == [0, 1, 1, 1, 0, 0]
    assert all(np.array_equal(row, np.sort(row)) for row in stays)


def test_blocks_of_outputs_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, hessian = problem(4, d=9, r=7)
    whole = obs.removal_order(weight, hessian, 9)
    monkeypatch.setattr(obs, "_BLOCK_BYTES", 2 * 8 * 9 * 9)
    blocks = obs.removal_order(weight, hessian, 9)
    assert np.array_equal(whole[0], blocks[0])
    np.testing.assert_allclose(whole[1], blocks[1], rtol=1e-9)


def test_damping_is_relative_and_makes_dead_and_equal_inputs_harmless() -> None:
    x = np.random.default_rng(5).normal(size=(50, 4)) * [1.0, 1.0, 0.0, 1.0]
    x[:, 3] = x[:, 1]
    hessian = 2 * x.T @ x / 50
    regular, strength = obs.damped(hessian, 0.01)
    assert strength == pytest.approx(0.01 * np.trace(hessian) / 4)
    np.testing.assert_allclose(regular - hessian, strength * np.eye(4), atol=1e-12)
    order, losses = obs.removal_order(np.full((4, 1), 2.0), regular, 4)
    assert order[0, 0] == 2
    assert losses[0, 0] == pytest.approx(strength * 2**2 / 2)
    assert np.isfinite(losses).all()


def test_damping_grows_until_the_hessian_is_positive_definite() -> None:
    regular, strength = obs.damped(np.diag([1.0, 1.0, -0.05]), 0.01)
    assert strength == pytest.approx(0.1 * 1.95 / 3)
    assert np.linalg.eigvalsh(regular).min() > 0
    assert obs.damped(np.zeros((3, 3)), 0.01)[1] == 0.01

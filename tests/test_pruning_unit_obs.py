from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline.pruning import unit_obs
from pipeline.pruning.unit_obs import Fed


def fed(units: int, k: int, outputs: int, seed: int) -> Fed:
    generator = np.random.default_rng(seed)
    d = units * k
    x = generator.normal(size=(4 * d, d)) @ generator.normal(size=(d, d))
    rows = generator.permutation(d).reshape(units, k)
    return Fed(generator.normal(size=(d, outputs)), 2 * x.T @ x / len(x), rows)


def least_loss(consumer: Fed, removed: tuple[int, ...]) -> float:
    """By the definition: the quadratic's least value over all weights with those rows at zero."""
    gone = consumer.rows[list(removed)].ravel()
    stays = np.setdiff1d(np.arange(len(consumer.weight)), gone)
    h, w = consumer.hessian, consumer.weight
    best = np.zeros_like(w)
    best[stays] = np.linalg.solve(h[np.ix_(stays, stays)], (h @ w)[stays])
    return float(np.sum((best - w) * (h @ (best - w))) / 2)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_each_step_is_the_best_single_removal_and_costs_what_it_says(k: int, seed: int) -> None:
    consumers = [fed(6, k, 4, seed), fed(6, 1, 2, seed + 100)]
    order, losses = unit_obs.removal_order(consumers, 6)
    assert sorted(order) == list(range(6))
    spent = 0.0
    for step, loss in enumerate(losses):
        before = tuple(order[:step])
        costs = {
            unit: sum(least_loss(each, (*before, unit)) for each in consumers)
            for unit in set(range(6)) - set(before)
        }
        assert order[step] == min(costs, key=costs.__getitem__)
        assert loss == pytest.approx(costs[order[step]] - spent, rel=1e-6)
        spent = costs[order[step]]


def test_with_an_identity_hessian_the_units_of_least_norm_go() -> None:
    weight = np.random.default_rng(1).normal(size=(10, 3))
    (order, losses) = unit_obs.removal_order([Fed(weight, np.eye(10), np.arange(10)[:, None])], 10)
    norms = np.sum(weight**2, axis=1)
    assert list(order) == list(np.argsort(norms))
    assert losses == pytest.approx(np.sort(norms) / 2)


def test_a_unit_that_another_one_copies_costs_nothing() -> None:
    generator = np.random.default_rng(2)
    x = generator.normal(size=(200, 5))
    x[:, 4] = x[:, 1]
    hessian = 2 * x.T @ x / 200 + 1e-9 * np.eye(5)
    order, losses = unit_obs.removal_order(
        [Fed(generator.normal(size=(5, 3)), hessian, np.arange(5)[:, None])], 2
    )
    assert order[0] in (1, 4) and losses[0] < 1e-6 < losses[1]


def test_greedy_is_as_good_as_the_best_pair_where_units_are_independent() -> None:
    consumer = fed(5, 1, 3, 7)
    consumer = Fed(consumer.weight, np.diag(np.diag(consumer.hessian)), consumer.rows)
    order, losses = unit_obs.removal_order([consumer], 2)
    best = min(itertools.combinations(range(5), 2), key=lambda pair: least_loss(consumer, pair))
    assert set(order) == set(best) and losses.sum() == pytest.approx(least_loss(consumer, best))

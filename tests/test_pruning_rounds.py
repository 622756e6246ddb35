"""Pruning in rounds: the sparsities on the way, and what is told in the end."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from pipeline.pruning import importance
from pipeline.pruning.output_refit import refit_outputs
from pipeline.pruning.prune import PrunedModel, prune_model
from pipeline.pruning.rounds import prune_in_rounds

X = np.random.default_rng(0).normal(size=(400, 12)).astype(np.float32)
SAMPLES, OTHERS = X[:300], X[300:]


def network() -> Any:
    keras.utils.set_random_seed(5)
    return keras.Sequential(
        [
            keras.Input((12,)),
            layers.Dense(16, activation="tanh", name="a"),
            layers.Dense(8, activation="tanh", name="b"),
            layers.Dense(3, name="c"),
        ]
    )


def by_hessian(model: Any, sparsity: float) -> PrunedModel:
    return prune_model(model, "hessian", sparsity, importance.load("hessian").Options(), SAMPLES)


def nonzero(model: Any) -> list[int]:
    return [int(np.count_nonzero(layer.kernel)) for layer in model.layers]


def in_rounds(dense: Any, rounds: int, asked: list[float]) -> PrunedModel:
    def prune(model: Any, sparsity: float) -> PrunedModel:
        asked.append(sparsity)
        return by_hessian(model, sparsity)

    def mend(pruned: PrunedModel) -> None:
        refit_outputs(dense, pruned.model, pruned.masks, SAMPLES, 4)

    return prune_in_rounds(dense, 0.8, rounds, prune, mend)


def test_one_round_is_pruning_as_it_is() -> None:
    dense, asked = network(), list[float]()
    found, expected = in_rounds(dense, 1, asked), by_hessian(dense, 0.8)
    assert asked == [0.8] and found.decisions == expected.decisions
    for one, other in zip(found.model.get_weights(), expected.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_rounds_end_at_the_sparsity_and_are_told_from_the_start() -> None:
    dense, asked = network(), list[float]()
    found = in_rounds(dense, 3, asked)
    assert asked == pytest.approx([0.8 * (1 - 8 / 27), 0.8 * (1 - 1 / 27), 0.8])
    assert [decision.weights_before for decision in found.decisions] == nonzero(dense) == [192, 128, 24]
    assert [decision.weights_after for decision in found.decisions] == nonzero(found.model)
    # The last round cannot tell what those before it cost.
    assert {decision.loss_increase for decision in found.decisions} == {None}
    assert sum(nonzero(found.model)) == sum(np.count_nonzero(mask) for mask in found.masks.values()) == 69


def test_what_was_mended_between_rounds_comes_closer_to_the_dense_model() -> None:
    dense = network()
    wanted = np.asarray(dense(OTHERS))

    def error(pruned: PrunedModel) -> float:
        refit_outputs(dense, pruned.model, pruned.masks, SAMPLES, 4)
        return float(np.mean((np.asarray(pruned.model(OTHERS)) - wanted) ** 2))

    assert error(in_rounds(dense, 2, [])) < 0.9 * error(in_rounds(dense, 1, []))

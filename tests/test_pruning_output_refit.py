from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import pytest

from pipeline.models.quiet import keras_module
from pipeline.pruning import gauss_newton
from pipeline.pruning.output_refit import check_outputs, refit_outputs

keras = keras_module()
layers = keras.layers


def inputs(*shape: int) -> Any:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def network(units: int = 12) -> Any:
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(4, 3, activation="relu", name="conv"),
            layers.Flatten(),
            layers.Dense(units, activation="relu", name="hidden"),
            layers.Dense(3, activation="softmax", name="out"),
        ]
    )


def test_removed_weights_stay_zero_and_the_outputs_come_closer() -> None:
    dense, pruned = network(), network()
    generator = np.random.default_rng(1)
    masks = {}
    for name in ("conv", "hidden"):
        kernel = pruned.get_layer(name).kernel
        masks[name] = generator.random(kernel.shape) > 0.6
        kernel.assign(np.where(masks[name], kernel, 0))
    x = inputs(300, 6, 6, 1)
    before = np.abs(np.asarray(pruned(x)) - np.asarray(dense(x))).mean()
    distances = refit_outputs(dense, pruned, masks, x, steps=6)
    assert np.abs(np.asarray(pruned(x)) - np.asarray(dense(x))).mean() < before / 2
    assert all(later < earlier for earlier, later in itertools.pairwise(distances))
    for name, mask in masks.items():
        assert not np.asarray(pruned.get_layer(name).kernel)[~mask].any()


def test_a_linear_model_that_lost_copies_of_its_inputs_answers_as_before() -> None:
    dense, pruned = (keras.Sequential([keras.Input((4,)), layers.Dense(2, name="out")]) for _ in range(2))
    x = inputs(50, 4)
    x[:, 3] = 2 * x[:, 0] + 1
    pruned.set_weights(dense.get_weights())
    mask = np.ones((4, 2), bool)
    mask[3] = False
    pruned.get_layer("out").kernel.assign(np.where(mask, pruned.get_layer("out").kernel, 0))
    distances = refit_outputs(dense, pruned, {"out": mask}, x, steps=20)
    assert distances[-1] < 1e-6 * distances[0]
    assert np.asarray(pruned(x)) == pytest.approx(np.asarray(dense(x)), abs=1e-3)


def test_a_model_with_fewer_units_is_refitted_all_the_same() -> None:
    dense, smaller = network(12), network(8)
    x = inputs(300, 6, 6, 1)
    distances = refit_outputs(dense, smaller, {}, x, steps=6)
    assert distances[-1] < distances[0] / 2


def test_where_the_hessian_is_not_formed_the_answers_come_as_close(monkeypatch: pytest.MonkeyPatch) -> None:
    x, mask = inputs(200, 6, 6, 1), np.random.default_rng(1).random((64, 12)) > 0.5
    distances = []
    # As it is it ends at a residual of 1e-3, from which the distance is some percent away, on either side.
    solved = functools.partial(gauss_newton.conjugate_gradients, tolerance=1e-6, iterations=2000)
    monkeypatch.setattr(gauss_newton, "conjugate_gradients", solved)
    for refit in (gauss_newton.refit, functools.partial(gauss_newton.refit, direct=0)):
        monkeypatch.setattr("pipeline.pruning.output_refit.gauss_newton.refit", refit)
        dense, pruned = network(), network()
        kernel = pruned.get_layer("hidden").kernel
        kernel.assign(np.where(mask, kernel, 0))
        distances.append(refit_outputs(dense, pruned, {"hidden": mask}, x, steps=1))
        assert not np.asarray(pruned.get_layer("hidden").kernel)[~mask].any()
    assert distances[1] == pytest.approx(distances[0], rel=1e-3)


def test_a_model_in_which_nothing_can_be_moved_is_refused() -> None:
    keras = keras_module()
    x, recurrent = np.zeros((1, 4, 3), np.float32), [keras.Input((4, 3)), keras.layers.LSTM(2)]
    with pytest.raises(ValueError, match="it has none"):
        check_outputs(keras.Sequential(recurrent), x)
    check_outputs(keras.Sequential([*recurrent, keras.layers.Dense(2)]), x)

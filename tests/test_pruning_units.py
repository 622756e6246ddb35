from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.models.quiet import keras_module
from pipeline.pruning import importance
from pipeline.pruning.calibration import moments
from pipeline.pruning.prune import prune_model
from pipeline.pruning.reconstruction import without_rows
from pipeline.pruning.units import chosen

keras = keras_module()
layers = keras.layers


def inputs(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def pruned(model: Any, method: str, sparsity: float, calibration: Any, **options: Any) -> Any:
    chosen_method = importance.load(method)
    return prune_model(model, method, sparsity, chosen_method.Options(**options), calibration)


def twins_model() -> Any:
    """Units 8 to 15 of the first layer are copies of 0 to 7, with other scales: half of them say nothing new."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(16, 3, activation="relu", name="conv"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(5, name="out"),
        ]
    )
    kernel, bias = model.get_layer("conv").get_weights()
    bias = np.abs(inputs(16, seed=4))  # no unit is silent
    scale = np.linspace(0.5, 2, 8, dtype=np.float32)
    kernel[..., 8:], bias[8:] = kernel[..., :8] * scale, bias[:8] * scale
    model.get_layer("conv").set_weights([kernel, bias])
    return model


def test_the_units_of_the_highest_scores_stay() -> None:
    assert list(chosen(np.array([3.0, 1.0, 2.0, 1.0]), 2)) == [0, 2]
    assert list(chosen(np.array([1.0, 1.0, 1.0]), 1)) == [2]


def test_a_unit_of_each_pair_of_copies_leaves_and_nothing_is_lost() -> None:
    model, x = twins_model(), inputs(400, 6, 6, 2)
    found = pruned(model, "hessian_units", 0.5, x, damping=1e-6)
    stays = {
        next(i for i in range(16) if np.allclose(kernel, model.get_layer("conv").get_weights()[0][..., i]))
        for kernel in np.moveaxis(found.model.get_layer("conv").get_weights()[0], -1, 0)
    }
    assert {unit % 8 for unit in stays} == set(range(8))
    fresh = inputs(50, 6, 6, 2, seed=9)
    assert np.asarray(found.model(fresh)) == pytest.approx(np.asarray(model(fresh)), abs=1e-3)
    assert found.model.count_params() < model.count_params() * 0.6


def test_reconstruction_recovers_what_neuron_removes() -> None:
    model, x = twins_model(), inputs(400, 6, 6, 2)
    plain = pruned(model, "neuron", 0.5, None)
    solved = pruned(model, "neuron", 0.5, x)
    fresh = inputs(200, 6, 6, 2, seed=9)
    truth = np.asarray(model(fresh))
    errors = [float(np.mean((np.asarray(each.model(fresh)) - truth) ** 2)) for each in (plain, solved)]
    assert errors[1] < errors[0] / 2
    assert [each.units_after for each in plain.decisions] == [each.units_after for each in solved.decisions]


def test_units_that_a_recurrent_layer_reads_stay_whole_under_the_hessian() -> None:
    model = keras.Sequential(
        [
            keras.Input((4, 3)),
            layers.TimeDistributed(layers.Dense(16, name="inner"), name="wide"),
            layers.LSTM(16, name="memory"),
            layers.Dense(2, name="out"),
        ]
    )
    found = pruned(model, "hessian_units", 0.5, inputs(40, 4, 3))
    told = {each.layer: each for each in found.decisions}
    assert "cannot judge" in told["wide"].reason or "left whole" in told["wide"].reason
    assert np.asarray(found.model(inputs(2, 4, 3))).shape == (2, 2)


@pytest.mark.parametrize("seed", range(3))
def test_without_rows_is_least_squares_on_the_rows_that_stay(seed: int) -> None:
    generator = np.random.default_rng(seed)
    trained = generator.normal(size=(100, 6))
    now = trained + 0.3 * generator.normal(size=(100, 6))
    weight, gone = generator.normal(size=(6, 2)), np.array([False, True, False, False, True, False])
    found = without_rows(weight, moments([(now, trained)]), gone, 1e-12)
    best, *_ = np.linalg.lstsq(now[:, ~gone], trained @ weight, rcond=None)
    assert found[~gone] == pytest.approx(best, rel=1e-6) and not found[gone].any()

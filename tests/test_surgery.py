"""A model that lost units computes what it did with their outgoing weights set to zero."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from pipeline.pruning.importance.neuron import Options
from pipeline.pruning.prune import prune_model


def sequential() -> Any:
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(3, 3, activation="relu", name="conv"),
            layers.Flatten(name="flat"),
            layers.Dense(12, activation="relu", name="first"),
            layers.Dropout(0.5, name="drop"),
            layers.Dense(9, use_bias=False, name="second"),
            layers.LeakyReLU(name="leaky"),
            layers.Dense(4, activation="softmax", name="out"),
        ]
    )


def functional() -> Any:
    """Two branches, one on a sequence, so that Dense layers also work on three axes."""
    entering = keras.Input((5, 4))
    x = layers.Dense(9, activation="gelu", name="second")(
        layers.Dense(12, activation="tanh", name="first")(entering)
    )
    x = layers.GlobalAveragePooling1D(name="pool")(layers.Dense(7, name="third")(x))
    return keras.Model(entering, [layers.Dense(2, name="out")(x), layers.Dense(3, name="other")(x)])


def with_random_bias(model: Any) -> Any:
    random = np.random.default_rng(0)
    model.set_weights([random.normal(size=weight.shape) for weight in model.get_weights()])
    return model


@pytest.mark.parametrize("made", [sequential, functional])
def test_the_model_is_not_touched_and_the_copy_is_smaller(made: Any) -> None:
    model = with_random_bias(made())
    before = model.get_weights()
    found = prune_model(model, "neuron", 0.4, Options(multiple=1), None)
    assert type(found.model) is type(model) and found.masks == {}
    assert found.model.count_params() < model.count_params()
    for mine, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_decisions_account_for_units_and_for_the_rows_they_take_along() -> None:
    lines: list[str] = []
    found = prune_model(
        with_random_bias(sequential()), "neuron", 0.5, Options(multiple=2), None, lines.append
    )
    by_name = {decision.layer: decision for decision in found.decisions}
    assert list(by_name) == ["conv", "flat", "first", "drop", "second", "leaky", "out"]
    assert [line.split(":")[0] for line in lines] == list(by_name)
    assert all(decision.reason.endswith(".") for decision in found.decisions)
    first, second, out = (by_name[name] for name in ("first", "second", "out"))
    assert (first.action, first.units_before, first.units_after) == ("units removed", 12, 6)
    assert first.reason.startswith("6 of 12 units were removed")
    assert (second.units_before, second.units_after) == (9, 6)
    assert second.reason.endswith("6 of its inputs left with their units.")
    assert (out.action, out.units_before, out.units_after) == ("kept", 4, 4)
    assert out.reason.endswith("3 of its inputs left with their units.")
    assert by_name["drop"].reason == "It follows 'first'."


@pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # TensorFlow's, under numpy 2.4
def test_a_pruned_model_survives_being_saved(tmp_path: Any) -> None:
    found = prune_model(with_random_bias(functional()), "neuron", 0.5, Options(multiple=1), None)
    found.model.save(tmp_path / "m.keras")
    x = np.ones((2, 5, 4), np.float32)
    for mine, theirs in zip(found.model(x), keras.models.load_model(tmp_path / "m.keras")(x), strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))

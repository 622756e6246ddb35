from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from pipeline.models import graph
from pipeline.models.graph import Graph, why_not_elements
from pipeline.models.samples import NamedArrays


def rich_model() -> Any:
    """Every reason there is to leave a layer alone, in one functional model."""
    image = keras.Input((6, 6, 4), name="image")
    x = layers.Conv2D(4, 3, padding="same", name="plain")(image)
    x = layers.Conv2D(4, 3, groups=2, padding="same", name="grouped")(x)
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Add(name="join")([x, image])
    x = layers.Flatten(name="flat")(x)
    twice = layers.Dense(8, name="twice")
    x = twice(layers.Dense(8, name="narrow")(twice(layers.Dense(8, name="in")(x))))
    x = keras.Sequential([keras.Input((8,)), layers.Dense(5)], name="inner")(x)
    return keras.Model(image, layers.Dense(2, name="out")(keras.ops.relu(x)))


def test_each_layer_has_its_place_and_its_reason() -> None:
    wired = Graph(rich_model())
    reasons = {node.name: why_not_elements(node) for node in wired.layers()}
    assert list(reasons) == [layer.name for layer in wired.model.layers]
    assert [name for name, reason in reasons.items() if reason is None] == ["plain", "in", "narrow", "out"]
    assert [node.name for node in wired.element_layers()] == ["plain", "in", "narrow", "out"]
    assert reasons["image"] == "A layer of kind InputLayer has no weights."
    assert reasons["flat"] == "A layer of kind Flatten has no weights."
    assert reasons["grouped"] == "A convolution in groups is left whole, and this one has 2."
    assert "depthwise convolution has few weights" in str(reasons["depthwise"])
    assert reasons["norm"] == (
        "In a layer of kind BatchNormalization no kernel is known that single weights could leave."
    )
    assert reasons["twice"] == "The layer is shared: one kernel serves several places of the model."
    assert reasons["inner"] == "A model within the model is left whole."
    assert wired.nodes["image"].consumers == ("plain", "join")
    assert set(wired.nodes["join"].producers) == {"norm", "image"}
    assert set(wired.nodes["twice"].consumers) == {"narrow", "inner"}
    assert wired.nodes["out"].is_output and not wired.nodes["in"].is_output


def test_a_kernel_held_by_two_layers_is_shared() -> None:
    inner = layers.Dense(4, name="dense")
    nested = keras.Sequential([keras.Input((4,)), inner], name="nested")
    image = keras.Input((4,))
    wired = Graph(keras.Model(image, inner(nested(image))))
    assert wired.nodes["dense"].shared and wired.nodes["nested"].shared


def plain_model() -> Any:
    return keras.Sequential([keras.Input((6,)), layers.Dense(3), layers.ReLU()])


def unnamed_model() -> Any:
    entering = keras.Input((6,))
    return keras.Model(entering, layers.Dense(3)(entering))


@pytest.mark.parametrize("made", [rich_model, plain_model, unnamed_model])
def test_a_copy_computes_the_same_and_shares_nothing(made: Any) -> None:
    model = made()
    model.compile(loss=lambda y, p: p - y)
    x = np.random.default_rng(0).normal(size=(3, *model.input_shape[1:])).astype(np.float32)
    before = model.predict(x, verbose=0)
    twin = graph.copy(model)
    assert type(twin) is type(model) and twin.name == model.name and model.compiled and not twin.compiled
    assert [layer.name for layer in twin.layers] == [layer.name for layer in model.layers]
    for weight in twin.weights:
        weight.assign(weight * 0 + 1)
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    twin.set_weights(model.get_weights())
    np.testing.assert_array_equal(twin.predict(x, verbose=0), before)


def test_inputs_of_a_layer_come_in_batches() -> None:
    model = rich_model()
    wired = Graph(model)
    x = np.random.default_rng(0).normal(size=(7, 6, 6, 4)).astype(np.float32)
    batches = list(wired.inputs("in", x, batch_size=3))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    entering = np.concatenate(batches)
    last = keras.Model(model.inputs[0], model.get_layer("flat").output)
    np.testing.assert_allclose(entering, last.predict(x, verbose=0), atol=1e-6)
    np.testing.assert_array_equal(np.concatenate(list(wired.inputs("plain", x))), x)


def test_inputs_of_a_layer_of_a_model_of_several_inputs_are_by_their_names() -> None:
    ends = {name: keras.Input((2,), name=name) for name in ("right", "left")}
    middle = layers.Subtract()([ends["left"], ends["right"]])
    wired = Graph(keras.Model(ends, layers.Dense(1, name="d")(middle)))
    left = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    given = NamedArrays({"left": left, "right": np.ones_like(left)})
    np.testing.assert_allclose(np.concatenate(list(wired.inputs("d", given, 2))), left - 1)
    with pytest.raises(ValueError, match="for each of left, right, received a single array"):
        next(wired.inputs("d", left))
    with pytest.raises(ValueError, match="for left, right, received them for left, rihgt"):
        next(wired.inputs("d", NamedArrays({"left": left, "rihgt": left})))


class Subclassed(keras.Model):
    def call(self, inputs: Any) -> Any:
        return inputs


@pytest.mark.parametrize("made", [Subclassed, lambda: keras.Sequential([layers.Dense(2)])])
def test_a_model_without_a_recorded_graph_is_refused_in_words(made: Any) -> None:
    with pytest.raises(
        ValueError, match=r"expected a built Functional or Sequential model, received '(Subc|Seq)"
    ):
        Graph(made())

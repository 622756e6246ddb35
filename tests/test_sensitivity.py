"""How much a model's outputs depend on a layer's, against closed forms and small changes of its bias."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from pipeline.models.graph import Graph
from pipeline.models.operations import multiply_accumulates, positions
from pipeline.models.sensitivity import sensitivity


def with_random_weights(model: Any) -> Any:
    random = np.random.default_rng(0)
    model.set_weights([random.normal(size=weight.shape) for weight in model.get_weights()])
    return model


def test_of_a_linear_model_it_is_the_squares_of_the_weights_after() -> None:
    model = with_random_weights(
        keras.Sequential([keras.Input((4,)), layers.Dense(5, name="a"), layers.Dense(3, name="b")])
    )
    found = sensitivity(model, ["a", "b"], np.ones((7, 4), np.float32), batch_size=3)
    np.testing.assert_allclose(
        found["a"], np.sum(model.get_layer("b").get_weights()[0] ** 2, axis=1), rtol=1e-5
    )
    np.testing.assert_allclose(found["b"], np.ones(3))


def test_the_activations_of_the_layer_and_those_after_it_count() -> None:
    model = with_random_weights(
        keras.Sequential(
            [
                keras.Input((4,)),
                layers.Dense(5, activation="tanh", name="a"),
                layers.Dense(3, activation="sigmoid", name="b"),
            ]
        )
    )
    x = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)
    found = sensitivity(model, ["a"], x)["a"]
    kernel, bias = model.get_layer("a").get_weights()
    after, step = model.get_layer("b"), 1e-2
    for unit in range(5):
        sides = [
            np.asarray(after(np.tanh(x @ kernel + bias + sign * step * np.eye(5)[unit]))) for sign in (1, -1)
        ]
        slope = (sides[0] - sides[1]) / (2 * step)
        assert found[unit] == pytest.approx(np.mean(np.sum(slope**2, axis=1)), rel=1e-2)


def test_positions_of_a_convolution_add_up() -> None:
    model = with_random_weights(
        keras.Sequential(
            [keras.Input((6, 2)), layers.Conv1D(3, 2, name="a"), layers.GlobalAveragePooling1D()]
        )
    )
    found = sensitivity(model, ["a"], np.ones((4, 6, 2), np.float32))["a"]
    np.testing.assert_allclose(found, np.full(3, 5 * (1 / 5) ** 2), rtol=1e-5)


def test_many_outputs_are_estimated_the_same_every_time() -> None:
    model = with_random_weights(
        keras.Sequential([keras.Input((4,)), layers.Dense(5, name="a"), layers.Dense(400, name="b")])
    )
    once, again = (sensitivity(model, ["a"], np.ones((3, 4), np.float32))["a"] for _ in range(2))
    np.testing.assert_array_equal(once, again)
    np.testing.assert_allclose(once, np.sum(model.get_layer("b").get_weights()[0] ** 2, axis=1), rtol=0.8)


def test_multiply_accumulates_are_kernels_times_positions() -> None:
    wired = Graph(
        keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                layers.Conv2D(4, 3, strides=2, padding="same", name="conv"),
                layers.DepthwiseConv2D(3, name="depthwise"),
                layers.SeparableConv2D(6, 2, padding="same", name="separable"),
                layers.Reshape((4, 6), name="shape"),
                layers.LSTM(5, name="lstm"),
                layers.Dense(2, name="dense"),
            ]
        )
    )
    assert {name: multiply_accumulates(node) for name, node in wired.nodes.items() if node.layer.weights} == {
        "conv": 16 * 9 * 3 * 4,
        "depthwise": 4 * 9 * 4,
        "separable": 4 * (4 * 4 + 4 * 6),
        "lstm": 4 * (6 * 20 + 5 * 20),
        "dense": 10,
    }
    assert multiply_accumulates(wired.nodes["shape"]) == 0


def test_open_sizes_are_told() -> None:
    wired = Graph(keras.Sequential([keras.Input((None, 3)), layers.Conv1D(2, 3, name="conv")]))
    with pytest.raises(ValueError, match="conv: its multiply-accumulates cannot be counted"):
        positions(wired.nodes["conv"])

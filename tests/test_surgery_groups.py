"""What importances see of a group, checked against the weights themselves."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from benchmarks._random_graphs import fill
from pipeline.models.graph import Graph
from pipeline.pruning.importance import neuron
from pipeline.pruning.surgery.cut import Anatomy
from pipeline.pruning.surgery.groups import Group


def groups_of(model: Any) -> dict[str, Group]:
    fill(model, np.random.default_rng(0))
    return {group.name: group for group in Anatomy(Graph(model)).groups}


def test_two_dense_layers() -> None:
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(5, name="hidden"), layers.Dense(3, name="after")]
    )
    found = groups_of(model)
    assert list(found) == ["hidden"]
    group = found["hidden"]
    kernel, bias = model.get_layer("hidden").get_weights()
    after = model.get_layer("after").get_weights()[0]
    (producer,), (consumer,) = group.producers, group.consumers
    assert (group.size, group.followers) == (5, ())
    np.testing.assert_array_equal(producer.weight, kernel.T)
    np.testing.assert_array_equal(producer.bias, bias[:, None])
    np.testing.assert_array_equal(consumer.weight, after)
    assert consumer.rows.tolist() == [[0], [1], [2], [3], [4]]


def test_every_position_after_a_flatten_belongs_to_its_channel() -> None:
    model = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            layers.Conv2D(3, 2, use_bias=False, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.Flatten(),
            layers.Dense(2, name="out"),
        ]
    )
    group = groups_of(model)["conv"]
    assert group.followers == ("norm",)
    (producer,), (consumer,) = group.producers, group.consumers
    kernel, after = (model.get_layer(name).get_weights()[0] for name in ("conv", "out"))
    np.testing.assert_array_equal(producer.weight, kernel.reshape(-1, 3).T)
    assert producer.bias.shape == (3, 0)
    by_channel = after.reshape(9, 3, 2).transpose(1, 0, 2)
    np.testing.assert_array_equal(consumer.weight[consumer.rows], by_channel)
    expected = {
        "abs": np.abs(by_channel).sum(axis=(1, 2)),
        "sum": by_channel.sum(axis=(1, 2)),
        "l2": np.sqrt((by_channel**2).sum(axis=(1, 2))),
    }
    for score, values in expected.items():
        options = neuron.Options.model_validate({"score": score})
        np.testing.assert_allclose(neuron.scores(group, None, options), values, rtol=1e-5)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_rows_of_a_convolution_are_those_of_its_patches(padding: str) -> None:
    model = keras.Sequential(
        [
            keras.Input((5, 5, 2)),
            layers.Conv2D(4, 1, name="conv"),
            layers.Conv2D(3, (2, 3), padding=padding, name="next"),
            layers.GlobalAveragePooling2D(),
        ]
    )
    (consumer,) = groups_of(model)["conv"].consumers
    kernel = model.get_layer("next").get_weights()[0]
    np.testing.assert_array_equal(consumer.weight, kernel.reshape(-1, 3))
    for unit in range(4):
        np.testing.assert_array_equal(consumer.weight[consumer.rows[unit]], kernel[:, :, unit].reshape(-1, 3))
    np.testing.assert_array_equal(consumer.without(np.empty(0, np.intp), kernel), kernel)


def test_a_transposed_convolution_has_a_row_for_each_channel() -> None:
    model = keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            layers.Conv2D(3, 1, name="conv"),
            layers.Conv2DTranspose(5, 2, name="next"),
            layers.GlobalAveragePooling2D(),
        ]
    )
    (consumer,) = groups_of(model)["conv"].consumers
    kernel = model.get_layer("next").get_weights()[0]
    np.testing.assert_array_equal(
        consumer.weight[consumer.rows[:, 0]], kernel.transpose(3, 0, 1, 2).reshape(3, -1)
    )
    np.testing.assert_array_equal(consumer.without(np.empty(0, np.intp), kernel), kernel)


def test_a_recurrent_unit_is_read_by_its_own_layer_too() -> None:
    model = keras.Sequential([keras.Input((4, 3)), layers.LSTM(2, name="lstm"), layers.Dense(1, name="out")])
    group = groups_of(model)["lstm"]
    kernel, recurrent, bias = model.get_layer("lstm").get_weights()
    (producer,) = group.producers
    assert [(consumer.layer, consumer.index) for consumer in group.consumers] == [("lstm", 1), ("out", 0)]
    for unit in range(2):
        gates = [unit, unit + 2, unit + 4, unit + 6]
        into = np.concatenate([kernel[:, gates].T.ravel(), recurrent[:, gates].T.ravel()])
        np.testing.assert_array_equal(producer.weight[unit], into)
        np.testing.assert_array_equal(producer.bias[unit], bias[gates])
        np.testing.assert_array_equal(
            group.consumers[0].weight[group.consumers[0].rows[unit]], recurrent[[unit]]
        )


def test_units_are_of_one_group_when_they_come_from_the_same_layers() -> None:
    entering = keras.Input((4,), name="entering")
    parts = [layers.Dense(size, name=f"part{size}")(entering) for size in (2, 3)]
    sum_of = layers.Add()([layers.Dense(5, name="whole")(entering), layers.Concatenate()(parts)])
    found = groups_of(keras.Model(entering, layers.Dense(1, name="out")(sum_of)))
    makers = {name: [producer.layer for producer in group.producers] for name, group in found.items()}
    assert [(sorted(makers[name]), group.size) for name, group in found.items()] == [
        (["part2", "whole"], 2),
        (["part3", "whole"], 3),
    ]
    assert len(set(found)) == 2
    rows = [group.consumers[0].rows.ravel().tolist() for group in found.values()]
    assert rows == [[0, 1], [2, 3, 4]]


def test_a_unit_that_comes_twice_has_the_rows_of_both() -> None:
    entering = keras.Input((4,))
    x = layers.Dense(3, name="hidden")(entering)
    found = groups_of(keras.Model(entering, layers.Dense(1, name="out")(layers.Concatenate()([x, x]))))
    assert found["hidden"].consumers[0].rows.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_a_dense_layer_under_a_reshape_has_one_unit_for_each_channel() -> None:
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(8, name="hidden"),
            layers.Reshape((2, 2, 2)),
            layers.Conv2D(1, 1, name="out"),
        ]
    )
    group = groups_of(model)["hidden"]
    kernel = model.get_layer("hidden").get_weights()[0]
    assert group.size == 2
    np.testing.assert_array_equal(group.producers[0].weight[1], kernel[:, 1::2].T.ravel())
    assert group.consumers[0].rows.tolist() == [[0], [1]]

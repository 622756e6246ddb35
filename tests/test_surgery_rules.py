"""Layer by layer: where units pass, and where they stay, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from benchmarks._random_graphs import compare, fill
from pipeline.models.graph import Graph
from pipeline.pruning.surgery.cut import Anatomy

IMAGE = (5, 5, 2)


def in_a_row(shape: tuple[int, ...], *between: Any, out: Any = None) -> Any:
    return keras.Sequential([keras.Input(shape), *between, out or layers.Dense(2, name="out")])


def conv(*between: Any) -> Any:
    return in_a_row(IMAGE, layers.Conv2D(6, 3, padding="same", name="conv"), *between, layers.Flatten())


def steps(*between: Any) -> Any:
    return in_a_row((4, 3), layers.Conv1D(6, 2, name="conv"), *between, layers.Flatten())


PASSES: dict[str, tuple[Callable[[], Any], dict[str, int]]] = {
    "dense": (lambda: in_a_row((4,), layers.Dense(5, activation="gelu", name="a")), {"a": 5}),
    "layer as activation": (
        lambda: in_a_row((4,), layers.Dense(5, activation=layers.LeakyReLU(), name="a")),
        {"a": 5},
    ),
    "softmax behind": (
        lambda: in_a_row((4,), layers.Dense(5, name="a"), layers.Dense(3, activation="softmax")),
        {"a": 5},
    ),
    "grouped": (lambda: conv(layers.Conv2D(4, 2, groups=2, name="b")), {"conv": 3, "b": 2}),
    "transposed": (lambda: conv(layers.Conv2DTranspose(3, 2, name="b")), {"conv": 6, "b": 3}),
    "depthwise": (lambda: conv(layers.DepthwiseConv2D(2, depth_multiplier=2)), {"conv": 6}),
    "separable": (
        lambda: conv(layers.SeparableConv2D(3, 2, depth_multiplier=2, name="b")),
        {"conv": 6, "b": 3},
    ),
    "norm": (
        lambda: conv(layers.BatchNormalization(), layers.PReLU(), layers.PReLU(shared_axes=[1, 2])),
        {"conv": 6},
    ),
    "pool": (lambda: conv(layers.MaxPooling2D(), layers.ZeroPadding2D(), layers.UpSampling2D()), {"conv": 6}),
    "dropout": (
        lambda: conv(layers.SpatialDropout2D(0.5), layers.Dropout(0.5, noise_shape=(None, 1, 1, 1))),
        {"conv": 6},
    ),
    "separable steps": (
        lambda: steps(layers.SeparableConv1D(5, 2, name="b"), layers.AveragePooling1D(2)),
        {"conv": 6, "b": 5},
    ),
    "permute": (
        lambda: steps(layers.Permute((2, 1)), layers.Flatten(), layers.Dense(4, name="b")),
        {"conv": 6, "b": 4},
    ),
    "repeat": (
        lambda: in_a_row((4,), layers.Dense(5, name="a"), layers.RepeatVector(3), layers.LSTM(4, name="b")),
        {"a": 5, "b": 4},
    ),
    "gru": (
        lambda: steps(layers.GRU(4, return_sequences=True, reset_after=False, name="b")),
        {"conv": 6, "b": 4},
    ),
    "bidirectional": (
        lambda: steps(layers.Bidirectional(layers.GRU(4, return_sequences=True), name="b")),
        {"conv": 6, "b": 4},
    ),
    "each step": (
        lambda: steps(layers.TimeDistributed(layers.Dense(4, activation="relu"), name="b")),
        {"conv": 6, "b": 4},
    ),
    "einsum": (
        lambda: steps(layers.EinsumDense("...c,cd->...d", 4, bias_axes="d", name="b")),
        {"conv": 6, "b": 4},
    ),
    "one unit": (lambda: in_a_row((4,), layers.Dense(1, name="a")), {"a": 1}),
}


@pytest.mark.parametrize("name", PASSES)
def test_units_pass_and_leave(name: str) -> None:
    made, sizes = PASSES[name]
    model = made()
    assert {group.name: group.size for group in Anatomy(Graph(model)).groups} == sizes
    found = compare(model, np.random.default_rng(1))
    assert found.difference <= 1e-5 and found.shrank()


class Doubling(layers.Dense):
    def call(self, inputs: Any, training: Any = None) -> Any:
        return 2 * super().call(inputs)


def relu(x: Any) -> Any:
    """Not Keras', whatever its name."""
    return x[..., ::-1]


STAYS: dict[str, tuple[Callable[[], Any], str]] = {
    "softmax": (
        lambda: in_a_row((4,), layers.Dense(5, name="a"), layers.Softmax(name="s")),
        "The units feed 's', a Softmax, through which units are not followed.",
    ),
    "activation": (
        lambda: in_a_row((4,), layers.Dense(5, name="a"), layers.Activation("softmax", name="s")),
        "The activation 'softmax' of 's' may mix its units.",
    ),
    "own activation": (
        lambda: in_a_row((4,), layers.Dense(5, activation="softmax", name="a")),
        "The activation 'softmax' of 'a' may mix its units.",
    ),
    "a function that is called relu": (
        lambda: in_a_row((4,), layers.Dense(5, activation=relu, name="a")),
        "The activation 'tests.test_surgery_rules.relu' of 'a' may mix its units.",
    ),
    "a layer of one's own": (
        lambda: in_a_row((4,), layers.Dense(5, name="a"), out=Doubling(2, name="d")),
        "The units feed 'd', which is a Doubling, which is not of Keras' own.",
    ),
    "layer norm": (
        lambda: in_a_row((4,), layers.Dense(5, name="a"), layers.LayerNormalization(name="n")),
        "'n', a LayerNormalization, takes its statistics over the units.",
    ),
    "norm of another axis": (
        lambda: in_a_row((4, 3), layers.Dense(5, name="a"), layers.BatchNormalization(axis=1, name="n")),
        "'n' works along another axis than that of the units.",
    ),
    "dense along another axis": (
        lambda: in_a_row(
            (4, 3), layers.Dense(5, name="a"), layers.Permute((2, 1)), out=layers.Dense(2, name="d")
        ),
        "'d' works along another axis than that of the units.",
    ),
    "nested": (
        lambda: in_a_row(
            (4,),
            layers.Dense(5, name="a"),
            out=keras.Sequential([keras.Input((5,)), layers.Dense(2)], name="m"),
        ),
        "The units feed 'm', which is a model within the model.",
    ),
    "stateful": (
        lambda: keras.Sequential(
            [keras.Input(batch_shape=(3, 4, 2)), layers.GRU(5, stateful=True, name="a"), layers.Dense(2)]
        ),
        "'a' keeps its state from batch to batch.",
    ),
    "noise": (
        lambda: in_a_row(
            (4,), layers.Dense(5, name="a"), layers.Dropout(0.5, noise_shape=(None, 5), name="s")
        ),
        "The units feed 's', a Dropout, through which units are not followed.",
    ),
    "output": (
        lambda: in_a_row((4,), out=layers.Dense(5, name="a")),
        "The units are an output of the model.",
    ),
}


@pytest.mark.parametrize("name", STAYS)
def test_units_stay_where_the_way_is_not_known_to_be_safe(name: str) -> None:
    made, reason = STAYS[name]
    anatomy = Anatomy(Graph(made()))
    assert anatomy.groups == []
    assert reason in {
        anatomy.flow.sets.why_pinned(int(label))
        for made in anatomy.flow.made.values()
        for labels in made.values()
        for label in labels
    } | set(anatomy.flow.whole.values())


def joined(*names: Any, join: Any) -> Any:
    entering = keras.Input(IMAGE, name="entering")
    parts = [
        layers.Conv2D(4, 1, name=name)(entering) if isinstance(name, str) else name(entering)
        for name in names
    ]
    return keras.Model(entering, layers.Dense(2)(layers.Flatten()(join(parts))))


@pytest.mark.parametrize(
    "join", [layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum]
)
def test_what_is_joined_leaves_together(join: Any) -> None:
    model = joined("a", "b", join=join())
    (group,) = Anatomy(Graph(model)).groups
    assert [producer.layer for producer in group.producers] == ["a", "b"]
    found = compare(model, np.random.default_rng(0))
    assert found.units > 0 and found.difference <= 1e-5 and found.shrank()


def test_what_is_added_to_an_input_stays() -> None:
    entering = keras.Input((4,), name="entering")
    x = layers.Dense(4, name="a")(entering) + entering
    anatomy = Anatomy(Graph(keras.Model(entering, layers.Dense(2)(x))))
    assert anatomy.groups == []
    reason = anatomy.flow.sets.why_pinned(int(anatomy.flow.made["a"]["units"][0]))
    assert reason == "The units are coupled with those of the model's input 'entering'."


def test_concatenated_units_leave_apart_or_as_one_by_the_axis() -> None:
    apart = joined("a", "b", join=layers.Concatenate())
    assert [group.size for group in Anatomy(Graph(apart)).groups] == [4, 4]
    together = joined("a", "b", join=layers.Concatenate(axis=1))
    assert [len(group.producers) for group in Anatomy(Graph(together)).groups] == [2]
    for model in (apart, together):
        found = compare(model, np.random.default_rng(3))
        assert found.units > 0 and found.difference <= 1e-5 and found.shrank()


def test_a_gate_of_one_value_for_all_channels_stays_and_they_may_leave() -> None:
    entering = keras.Input(IMAGE)
    x = layers.Conv2D(4, 1, name="conv")(entering)
    gate = layers.Conv2D(1, 1, activation="sigmoid", name="gate")(x)
    model = keras.Model(
        entering, layers.Dense(2)(layers.GlobalMaxPooling2D()(layers.Multiply(name="times")([x, gate])))
    )
    anatomy = Anatomy(Graph(model))
    assert [group.name for group in anatomy.groups] == ["conv"]
    reason = anatomy.flow.sets.why_pinned(int(anatomy.flow.made["gate"]["units"][0]))
    assert reason == "'times' spreads them over other units."
    found = compare(model, np.random.default_rng(0))
    assert found.units > 0 and found.difference <= 1e-5


def test_a_shared_layer_leaves_the_same_units_at_every_place() -> None:
    first, second = keras.Input((4,), name="first"), keras.Input((6,), name="second")
    shared = layers.Dense(5, activation="relu", name="shared")
    reads = [shared(layers.Dense(7, name=f"to_{x.name}")(x)) for x in (first, second)]
    model = keras.Model(
        [first, second], [layers.Dense(2)(reads[0]), layers.Dense(3)(layers.Concatenate()(reads))]
    )
    sizes = sorted((group.size, len(group.producers)) for group in Anatomy(Graph(model)).groups)
    assert sizes == [(5, 1), (7, 2)]
    found = compare(model, np.random.default_rng(2))
    assert found.units > 0 and found.difference <= 1e-5 and found.shrank()


def test_a_kernel_held_by_two_layers_stays() -> None:
    inner = layers.Dense(4, name="inner")
    nested = keras.Sequential([keras.Input((4,)), inner], name="nested")
    entering = keras.Input((4,))
    model = keras.Model(entering, layers.Dense(2)(inner(nested(layers.Dense(4, name="a")(entering)))))
    anatomy = Anatomy(Graph(model))
    assert anatomy.groups == []
    assert (
        anatomy.flow.whole["inner"]
        == "The units feed 'inner', which holds a weight that another layer holds too."
    )


def test_states_of_an_encoder_are_those_of_its_decoder() -> None:
    entering = keras.Input((4, 3))
    _, *states = layers.LSTM(5, return_state=True, name="encoder")(entering)
    x = layers.LSTM(5, name="decoder")(entering, initial_state=states)
    model = keras.Model(entering, layers.Dense(2)(x))
    (group,) = Anatomy(Graph(model)).groups
    assert [producer.layer for producer in group.producers] == ["encoder", "decoder"]
    found = compare(model, np.random.default_rng(1))
    assert found.units > 0 and found.difference <= 1e-5 and found.shrank()


def test_heads_and_widths_of_attention_leave() -> None:
    entering = keras.Input((4, 3))
    x = layers.Dense(6, name="wide")(entering)
    x = layers.Add()([x, layers.MultiHeadAttention(4, 2, name="attention")(x, x)])
    model = keras.Model(entering, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))
    sizes = {group.name: group.size for group in Anatomy(Graph(model)).groups}
    assert sizes == {"wide": 6, "attention/heads": 4}
    found = compare(model, np.random.default_rng(1))
    assert found.units > 0 and found.difference <= 1e-5 and found.shrank()
    assert found.models[1].get_layer("attention").num_heads < 4


@pytest.mark.parametrize(
    ("staying", "says"),
    [
        ({"b": [0]}, "unknown group 'b'; known: a"),
        ({"a": []}, r"group 'a': expected one or more of its units 0 to 4, received \[\]"),
        ({"a": [5]}, r"group 'a': expected one or more of its units 0 to 4, received \[5\]"),
    ],
)
def test_a_cut_that_makes_no_sense_is_refused_in_words(staying: dict[str, list[int]], says: str) -> None:
    anatomy = Anatomy(Graph(in_a_row((4,), layers.Dense(5, name="a"))))
    with pytest.raises(ValueError, match=says):
        anatomy.cut({name: np.array(units, np.intp) for name, units in staying.items()})


def test_nothing_to_remove_gives_a_copy() -> None:
    model = in_a_row((4,), layers.Dense(5, name="a"))
    fill(model, np.random.default_rng(0))
    twin = Anatomy(Graph(model)).cut({})
    for mine, theirs in zip(twin.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)

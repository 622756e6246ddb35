"""Bias correction and batch-norm re-estimation: means and variances afterwards, and what is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from pipeline import engine
from pipeline.artifacts import Store
from pipeline.models import graph
from pipeline.models.graph import Graph
from pipeline.plan import plan_model
from pipeline.progress import Progress
from pipeline.pruning import importance
from pipeline.pruning.affected import affected
from pipeline.pruning.batch_norm import reestimate
from pipeline.pruning.bias_correction import correct_biases
from pipeline.pruning.calibration import mean_and_variance
from pipeline.pruning.prune import prune_model
from pipeline.strict_yaml import read_values
from tests.workspace import ROOT

X = np.random.default_rng(0).normal(1, 2, size=(150, 6, 5, 2)).astype(np.float32)


def network() -> Any:
    """Two branches, of which pruning "conv" reaches one, and all that comes after they are joined."""
    keras.utils.set_random_seed(1)
    image = keras.Input((6, 5, 2))
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv")(image)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    x = layers.DepthwiseConv2D(2, activation="relu", name="depthwise")(x)
    y = layers.Conv2D(4, 2, name="other")(image)
    y = layers.BatchNormalization(name="other_norm")(y)
    x = layers.BatchNormalization(name="joined")(layers.Add()([x, y]))
    x = layers.Dense(6, activation="tanh", name="hidden")(layers.Flatten()(x))
    model = keras.Model(image, layers.Dense(3, activation="softmax", name="out")(x))
    random = np.random.default_rng(2)
    for layer in model.layers:
        layer.set_weights([w + 0.3 * random.random(w.shape).astype(np.float32) for w in layer.get_weights()])
    return model


def without_half(model: Any, *names: str) -> Any:
    twin = graph.copy(model)
    for name in names:
        kernel = twin.get_layer(name).kernel
        kernel.assign(np.where(np.arange(kernel.shape[-1]) % 2, 0, kernel))
    return twin


def entering(model: Any, name: str) -> np.ndarray:
    """What enters the layer, as rows (n, channels)."""
    found = np.concatenate(list(Graph(model).inputs(name, X)))
    return found.reshape(-1, found.shape[-1])


def mean_outputs(model: Any, name: str) -> np.ndarray:
    """Of the layer without its activation."""
    layer = graph.copy(model).get_layer(name)
    layer.activation = keras.activations.linear
    found = np.concatenate([np.asarray(layer(x)) for x in Graph(model).inputs(name, X)])
    return np.asarray(found.reshape(-1, found.shape[-1]).mean(axis=0))


def weights_of(model: Any) -> dict[str, list[np.ndarray]]:
    return {layer.name: layer.get_weights() for layer in model.layers}


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.floats(-1e4, 1e4))
def test_streamed_moments_are_those_of_one_batch(sizes: list[int], offset: float) -> None:
    rows = offset + np.random.default_rng(sum(sizes)).normal(size=(sum(sizes), 3))
    mean, variance = mean_and_variance(np.split(rows, np.cumsum(sizes)[:-1]))
    np.testing.assert_allclose(mean, rows.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(variance, rows.var(axis=0), rtol=1e-8, atol=1e-12)


def test_only_what_a_change_reaches_is_affected() -> None:
    dense = network()
    assert affected(Graph(dense), Graph(graph.copy(dense))) == set()
    found = affected(Graph(dense), Graph(without_half(dense, "conv")))
    assert {"conv", "norm", "depthwise", "joined", "hidden", "out"} <= found
    assert not {"other", "other_norm"} & found


def test_after_reestimation_every_normalisation_has_the_moments_of_what_it_gets() -> None:
    dense = network()
    model = without_half(dense, "conv")
    told = reestimate(dense, model, X)
    assert list(told) == ["norm", "joined"]
    assert told["norm"] == "Its statistics were taken anew from 150 samples."
    for name in told:
        layer, rows = model.get_layer(name), entering(model, name).astype(np.float64)
        np.testing.assert_allclose(layer.moving_mean, rows.mean(axis=0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(layer.moving_variance, rows.var(axis=0), rtol=1e-5, atol=1e-6)
    before, after = weights_of(dense), weights_of(model)
    np.testing.assert_array_equal(after["other_norm"], before["other_norm"])
    np.testing.assert_array_equal(after["norm"][:2], before["norm"][:2])
    statistics = weights_of(model)
    reestimate(dense, model, X)
    for name in told:
        np.testing.assert_allclose(weights_of(model)[name], statistics[name], rtol=1e-6)


def test_after_bias_correction_mean_outputs_are_those_as_trained() -> None:
    dense = network()
    model = without_half(dense, "conv", "hidden")
    told = correct_biases(dense, model, X, {})
    assert told["conv"] == "Its biases were not corrected: it has none."
    assert list(told) == ["conv", "depthwise", "hidden", "out"]
    for name in list(told)[1:]:
        assert told[name].endswith("to the mean outputs it had as trained.")
        expected = mean_outputs(dense, name)
        np.testing.assert_allclose(mean_outputs(model, name), expected, rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(weights_of(model)["other"], weights_of(dense)["other"], strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_linear_network_has_its_mean_answers_back() -> None:
    """Of a product of matrices the mean is that of the mean input, so no layer before the last has to be mended."""
    keras.utils.set_random_seed(1)
    dense = keras.Sequential(
        [keras.Input((4,)), layers.Dense(5, name="a"), layers.Dense(3, name="b"), layers.Dense(2, name="c")]
    )
    x = X.reshape(-1, 4)[:200]
    model = without_half(dense, "a", "b")
    a, b, c = (model.get_layer(name).get_weights() for name in "abc")
    correct_biases(dense, model, x, {})
    wanted = np.asarray(dense(x)).mean(axis=0)
    np.testing.assert_allclose(np.asarray(model(x)).mean(axis=0), wanted, atol=1e-5)
    # In closed form: E[x] (W0 - W) comes back at the first layer, and what it put out is right on average after that.
    first = dense.get_layer("a").get_weights()
    np.testing.assert_allclose(
        model.get_layer("a").get_weights()[1], a[1] + x.mean(axis=0) @ (first[0] - a[0]), atol=1e-5
    )
    mean = x.mean(axis=0) @ first[0] + first[1]
    np.testing.assert_allclose(
        model.get_layer("b").get_weights()[1],
        b[1] + mean @ (dense.get_layer("b").get_weights()[0] - b[0]),
        atol=1e-5,
    )
    np.testing.assert_allclose(model.get_layer("c").get_weights()[1], c[1], atol=1e-5)


def test_where_nothing_was_pruned_nothing_changes() -> None:
    dense = network()
    model = graph.copy(dense)
    assert correct_biases(dense, model, X, {}) == reestimate(dense, model, X) == {}
    for mine, theirs in zip(model.get_weights(), dense.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_units_that_left_do_not_confuse_the_means_of_those_that_stay() -> None:
    dense = network()
    options = importance.load("neuron").Options(multiple=1, calibration_samples=0)
    pruned = prune_model(dense, "neuron", 0.5, options, None)
    assert len(pruned.outputs["hidden"]) == 3 and "out" not in pruned.outputs
    told = correct_biases(dense, pruned.model, X, pruned.outputs)
    for name in ("hidden", "depthwise", "out"):
        assert name in told
        expected = mean_outputs(dense, name)[pruned.outputs.get(name, slice(None))]
        np.testing.assert_allclose(mean_outputs(pruned.model, name), expected, rtol=1e-4, atol=1e-5)
    assert list(reestimate(dense, pruned.model, X)) == ["norm", "other_norm", "joined"]


def unusual() -> Any:
    keras.utils.set_random_seed(1)
    sequence = keras.Input((6, 2))
    norm, dense = layers.BatchNormalization(name="norm"), layers.Dense(2, name="twice")
    inner = keras.Sequential(
        [keras.Input((6, 2)), layers.BatchNormalization(), layers.Dense(2)], name="inner"
    )
    x = layers.Dense(2, name="first")(sequence)
    x = layers.Add()([norm(x), norm(dense(dense(x)))])
    x = layers.TimeDistributed(layers.BatchNormalization(), name="timed")(inner(x))
    x = layers.Bidirectional(layers.GRU(2, return_sequences=True), name="both")(x)
    x = layers.LSTM(3, name="lstm")(layers.EinsumDense("abc,cd->abd", (None, 4), name="einsum")(x))
    x = layers.EinsumDense("ac,cde->ade", (2, 3), bias_axes="de", name="heads")(x)
    return keras.Model(sequence, layers.EinsumDense("abc,cd->abd", (None, 2), bias_axes="d", name="out")(x))


def test_what_cannot_be_treated_is_said() -> None:
    dense = unusual()
    model = without_half(dense, "first")
    x = X.reshape(-1, 6, 2)
    told = correct_biases(dense, model, x, {})
    said = {name: sentence.removeprefix("Its biases were not corrected: ") for name, sentence in told.items()}
    assert said["twice"] == "the layer is shared, and serves several places of the model."
    assert said["einsum"] == "it has none."
    assert said["lstm"] == "a LSTM does not simply add them to what it puts out."
    assert said["both"] == "a Bidirectional does not simply add them to what it puts out."
    assert said["inner"] == "a Sequential does not simply add them to what it puts out."
    assert said["heads"] == "they stand along several axes."
    assert all("moved by" in said[name] for name in ("first", "out"))
    assert reestimate(dense, model, x) == {
        "norm": "Its batch-norm statistics are still those as trained: the layer is shared, and serves several places"
        " of the model.",
        "inner": "Its batch-norm statistics are still those as trained: they are within a Sequential.",
        "timed": "Its batch-norm statistics are still those as trained: they are within a TimeDistributed.",
    }


@pytest.mark.parametrize("bad", [X[:0], np.full_like(X, np.nan)])
def test_samples_that_say_nothing_are_refused(bad: np.ndarray) -> None:
    dense = network()
    for recover in (reestimate, lambda *given: correct_biases(*given, {})):
        with pytest.raises(ValueError, match=r"received (none|NaN)"):
            recover(dense, without_half(dense, "conv"), bad)


def test_a_plan_asks_for_both_and_its_decisions_say_so(tmp_path: Path) -> None:
    values = {
        "name": "p",
        "model": {"source": "examples/iris_mlp.py:build"},
        "data": {"source": "sklearn:iris"},
        "train": {"epochs": 2},
        "prune": {"method": "magnitude", "bias_correction": {"samples": 64}, "batch_norm": {"samples": 64}},
    }
    plan = read_values(values, plan_model(), overrides=(), folder=ROOT, name="test")
    report = engine.run_host_stages(plan, ROOT, Store(tmp_path), Progress(quiet=True), last="prune").report(
        "prune"
    )
    reasons = [each["reason"] for each in report["decisions"] if each["action"] == "pruned"]
    assert reasons and all("to the mean outputs it had as trained." in reason for reason in reasons)

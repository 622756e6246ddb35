"""Slopes, and the Jacobian they make, against finite differences and TensorFlow's own Jacobian."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from pipeline.models.ports import input_names
from pipeline.models.samples import of_names
from pipeline.pruning import distance as distances
from pipeline.pruning import linearised
from pipeline.pruning.keras_network import KerasNetwork

Array = np.ndarray


def dense_model() -> Any:
    return keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(4, activation="tanh", name="first"),
            layers.Dense(3, activation="softmax", use_bias=False, name="last"),
        ]
    )


def convolutional_model() -> Any:
    image = keras.Input((6, 5, 2))
    x = layers.Conv2D(3, (3, 2), strides=2, padding="same", activation="gelu", name="first")(image)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Conv2D(2, 2, dilation_rate=1, name="last")(x)
    x = layers.Flatten()(layers.Add()([x, layers.Activation("tanh")(x)]))
    return keras.Model(image, layers.Softmax()(layers.Dense(3, name="head")(x)))


def sequence_model() -> Any:
    words, extra = keras.Input((6, 3)), keras.Input((2,))
    x = layers.Conv1D(4, 3, padding="causal", dilation_rate=2, activation="silu", name="first")(words)
    x = layers.Dense(2, name="last")(x)
    x = layers.Concatenate()([layers.GlobalAveragePooling1D()(x), extra])
    return keras.Model([words, extra], layers.Dense(2, activation="sigmoid")(x))


MODELS = (dense_model, convolutional_model, sequence_model)


def linearise(made: Any, n: int = 4, **options: Any) -> tuple[Any, KerasNetwork, list[Array]]:
    keras.utils.set_random_seed(1)
    model = made()
    random = np.random.default_rng(0)
    for layer in model.layers:
        layer.set_weights([w + 0.3 * random.normal(size=w.shape) ** 2 for w in layer.get_weights()])
    x = [random.normal(size=(n, *entrance.shape[1:])).astype(np.float32) for entrance in model.inputs]
    given = of_names(x, input_names(model))
    return model, KerasNetwork(model, ["first", "last"], given, **options), x


def jacobian(network: KerasNetwork) -> tuple[Array, list[Array]]:
    """R^T J (n, o, p) over all weights, and the weights."""
    weights = network.matrices()
    every = list(linearised.units([np.ones(matrix.shape, bool) for matrix in weights]))
    found = []
    for batch in network.linearise(weights):
        columns = np.concatenate([linearised.jacobian(batch, unit) for unit in every], axis=1)
        found.append(columns.reshape(len(batch), -1, columns.shape[1]))
    return np.concatenate(found), weights


@pytest.mark.parametrize("made", MODELS)
def test_the_jacobian_is_tensorflows(made: Any) -> None:
    import tensorflow as tf

    model, network, x = linearise(made, distance="squared")
    columns, _ = jacobian(network)
    own = [weight for name in ("first", "last") for weight in model.get_layer(name).trainable_weights]
    last = model.layers[-1]
    if isinstance(last, layers.Softmax):
        logits = keras.Model(model.input, last.input)
    else:
        last.activation, logits = keras.activations.linear, model
    with tf.GradientTape() as tape:
        outputs = logits(x if len(x) > 1 else x[0], training=False)
    expected = dict(zip([id(w) for w in own], tape.jacobian(outputs, [w.value for w in own]), strict=True))
    matrices = []
    for name in ("first", "last"):
        rows = [
            np.reshape(expected[id(w)], (*outputs.shape, -1, w.shape[-1]))
            for w in model.get_layer(name).trainable_weights
        ]
        matrices.append(np.concatenate(rows, axis=2))
    transposed = [matrix.swapaxes(2, 3).reshape(*outputs.shape, -1) for matrix in matrices]
    np.testing.assert_allclose(columns, np.concatenate(transposed, axis=2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("made", MODELS)
@pytest.mark.parametrize("kind", ["squared", None])
def test_the_gradient_is_that_of_finite_differences(made: Any, kind: Any) -> None:
    _, network, _ = linearise(made, distance=kind)
    random = np.random.default_rng(3)
    weights = [w + 0.2 * random.normal(size=w.shape).astype(np.float32) for w in network.matrices()]
    masks = [np.ones(matrix.shape, bool) for matrix in weights]
    (batch,) = network.linearise(weights)
    gradient = linearised.gradient(batch, masks) / len(batch)
    for _ in range(3):
        direction = random.normal(size=len(gradient))
        sides = [
            network.distance(linearised.scatter(linearised.gather(weights, masks) + step * direction, masks))
            for step in (1e-2, -1e-2)
        ]
        assert (sides[0] - sides[1]) / 2e-2 == pytest.approx(gradient @ direction, rel=3e-2, abs=3e-4)


@pytest.mark.parametrize("made", MODELS)
def test_the_copy_computes_the_models_logits_and_takes_weights_back(made: Any) -> None:
    model, network, x = linearise(made)
    link = {"softmax": distances._softmax, "sigmoid": distances._sigmoid}[network.measured.kinds[0]]
    outputs = np.asarray(model(x if len(x) > 1 else x[0], training=False))
    np.testing.assert_allclose(link(network.target), outputs, rtol=1e-5, atol=1e-6)
    weights = network.matrices()
    assert network.distance(weights) == pytest.approx(0, abs=1e-7)
    for name, values in network.layer_weights(weights).items():
        for value, own in zip(values, model.get_layer(name).get_weights(), strict=True):
            np.testing.assert_array_equal(value, own)


def test_several_batches_give_what_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    _, network, _ = linearise(convolutional_model, n=7)
    weights = network.matrices()
    masks = [np.ones(weight.shape, bool) for weight in weights]
    whole = linearised.normal_equations(network.linearise(weights), masks)
    monkeypatch.setattr("pipeline.pruning.keras_network._BATCH_ELEMENTS", 1000)
    assert len(list(network.linearise(weights))) > 1
    for parts, one in zip(linearised.normal_equations(network.linearise(weights), masks), whole, strict=True):
        np.testing.assert_allclose(parts, one, rtol=1e-4, atol=1e-6)


def gated_model() -> Any:
    """What TensorFlow differentiates in its own ways: loops, attention, pooling, depthwise kernels."""
    words = keras.Input((6, 3))
    x = layers.Conv1D(4, 3, padding="causal", activation="silu", name="first")(words)
    x = layers.LSTM(4, return_sequences=True)(layers.DepthwiseConv1D(2)(x))
    x = layers.LayerNormalization()(layers.Add()([x, layers.MultiHeadAttention(2, 2)(x, x)]))
    x = layers.Dense(3, activation="gelu", name="last")(layers.MaxPooling1D(2)(x))
    return keras.Model(words, layers.Dense(4, activation="softmax")(layers.GlobalMaxPooling1D()(x)))


@pytest.mark.parametrize(
    ("made", "kind"), [(made, kind) for made in MODELS for kind in ("squared", None)] + [(gated_model, None)]
)
def test_products_are_those_with_the_gauss_newton_matrix(
    made: Any, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, network, _ = linearise(made, n=5, distance=kind)
    weights = network.matrices()
    masks = [np.ones(weight.shape, bool) for weight in weights]
    hessian, _ = linearised.normal_equations(network.linearise(weights), masks)
    vector = np.random.default_rng(4).normal(size=len(hessian))
    expected = hessian @ vector
    for elements in (1 << 23, 1):
        monkeypatch.setattr("pipeline.pruning.keras_network._PRODUCT_ELEMENTS", elements)
        found = linearised.gather(network.product(weights, linearised.scatter(vector, masks)), masks)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def grouped() -> Any:
    return keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            layers.Conv2D(2, 2, groups=2, name="first"),
            layers.Flatten(),
            layers.Dense(2, name="last"),
        ]
    )


@pytest.mark.parametrize(
    ("made", "n", "says"),
    [
        (grouped, 3, "'first' cannot be linearised: A convolution in groups"),
        (dense_model, 0, "at least one"),
        (lambda: keras.Sequential([keras.Input((4,)), layers.Dense(2, name="first")]), 3, "no such layer"),
    ],
)
def test_what_cannot_be_linearised_is_said(made: Any, n: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        linearise(made, n)


@pytest.mark.parametrize("recurrent", [layers.LSTM, layers.GRU, layers.SimpleRNN])
def test_the_activation_of_a_recurrent_layer_is_not_that_of_the_output(recurrent: Any) -> None:
    keras.utils.set_random_seed(1)
    last = recurrent(1, activation="sigmoid", name="last")
    model = keras.Sequential([keras.Input((4, 3)), layers.Dense(2, name="first"), last])
    x = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    network = KerasNetwork(model, ["first"], x)
    assert network.measured.kinds == ("squared",)
    np.testing.assert_allclose(network.target, model(x), rtol=1e-5)

"""Small networks of a few milliseconds with seeded weights, as dense .tflite files."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.models.quiet import keras_module, quiet
from pipeline.sparse_tflite.keras_conversion import to_tflite

WIDTH, WIDER = 1024, 1056
ROWS, SUMS = 64, 24


def beside_the_peer() -> dict[str, bytes]:
    """Three of eight or nine milliseconds, each of other operators, by name; copying their images takes no time."""
    made = {"convolutions": _convolutions, "depthwise": _depthwise, "1x1 convolutions": _pointwise}
    return {name: make() for name, make in made.items()}


def widened(width: int) -> bytes:
    """Running sums over rows of `width` numbers: a millisecond or two in which each addition waits for the one before,
    so that another machine's work on the same core, which no kernel tells of, disturbs it least.
    """
    layers, ops = keras_module().layers, keras_module().ops
    image = x = keras_module().Input(batch_shape=(1, ROWS, WIDTH))
    if width > WIDTH:
        x = ops.concatenate([x, x[:, :, : width - WIDTH]], axis=2)
    for _ in range(SUMS // 3):
        for _ in range(3):
            x = ops.cumsum(x, axis=2)
        # So that no sum overflows.
        x = x * width**-3.0
    with quiet():
        model = keras_module().Model(image, layers.GlobalAveragePooling1D()(x))
        return to_tflite(model)


def _convolutions() -> bytes:
    layers = keras_module().layers
    image = x = keras_module().Input(batch_shape=(1, 72, 72, 3))
    for _ in range(10):
        x = layers.Conv2D(32, 3, padding="same", activation="relu")(x)
    return _file(image, x)


def _depthwise() -> bytes:
    layers = keras_module().layers
    image = x = keras_module().Input(batch_shape=(1, 64, 64, 3))
    for _ in range(16):
        x = layers.DepthwiseConv2D(3, padding="same", activation="relu")(x)
        x = layers.Conv2D(64, 1, activation="relu")(x)
    return _file(image, x)


def _pointwise() -> bytes:
    layers = keras_module().layers
    image = x = keras_module().Input(batch_shape=(1, 28, 28, 3))
    for channels in (128, *4 * (512, 128)):
        x = layers.Conv2D(channels, 1, activation="relu")(x)
    return _file(image, x)


def _file(image: Any, x: Any) -> bytes:
    """The .tflite file of the network that ends with the mean of `x`; weights of variance 2 / inputs."""
    layers = keras_module().layers
    random = np.random.default_rng(0)
    with quiet():
        model = keras_module().Model(image, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))
        for weight in model.weights:
            inputs = max(1, int(np.prod(weight.shape[:-1])))
            weight.assign(random.normal(0, np.sqrt(2 / inputs), weight.shape))
        return to_tflite(model)

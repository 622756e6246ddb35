"""Small convolutional networks with pruned 1x1 convolutions, one for each pattern that sparse inference treats its own
way; and their .tflite files, as TensorFlow writes them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

WIDTH = 8
SIZE = 16


def pointwise(tensor: Any, activation: str | None = "relu", width: int = WIDTH) -> Any:
    import keras

    return keras.layers.Conv2D(width, 1, activation=activation)(tensor)


def depthwise(tensor: Any, kernel: int = 3, strides: int = 1, padding: Any = "same") -> Any:
    """`padding`: `same`, or what ZeroPadding2D takes."""
    import keras

    if padding != "same":
        tensor, padding = keras.layers.ZeroPadding2D(padding)(tensor), "valid"
    return keras.layers.DepthwiseConv2D(kernel, strides, padding, activation="relu")(tensor)


def block(**options: Any) -> Callable[[Any], Any]:
    return lambda tensor: pointwise(depthwise(tensor, **options))


def stem(tensor: Any, strides: int = 2, padding: str = "valid") -> Any:
    import keras

    if padding == "valid":
        tensor = keras.layers.ZeroPadding2D(1)(tensor)
    return keras.layers.Conv2D(WIDTH, 3, strides, padding, activation="relu")(tensor)


def excite(tensor: Any) -> Any:
    import keras

    scale = pointwise(keras.layers.GlobalAveragePooling2D(keepdims=True)(tensor))
    return keras.layers.Multiply()([tensor, pointwise(scale, "sigmoid")])


def middles() -> dict[str, Callable[[Any], Any]]:
    """What stands between the first block and the last, by name."""
    import keras

    layers = keras.layers
    return {
        "base": lambda tensor: tensor,
        "residual": lambda tensor: layers.Add()([tensor, block()(tensor)]),
        "squeeze-excite": excite,
        "hard-swish": lambda tensor: pointwise(depthwise(tensor), "hard_swish"),
        "swish": lambda tensor: pointwise(depthwise(tensor), "swish"),
        "leaky ReLU": lambda tensor: layers.LeakyReLU(0.1)(pointwise(tensor, None)),
        "5x5 depthwise": block(kernel=5),
        "bilinear": lambda tensor: pointwise(layers.UpSampling2D(2, interpolation="bilinear")(tensor)),
        "stride 2, padding 1": block(strides=2, padding=1),
        "concat": lambda tensor: layers.Concatenate()([tensor, pointwise(tensor)]),
        "concat of branches": lambda tensor: layers.Concatenate()([pointwise(tensor), pointwise(tensor)]),
        "stride 2 same": block(strides=2),
        "stride 2, padding 0 and 1": block(strides=2, padding=((0, 1), (0, 1))),
        "max pool": lambda tensor: pointwise(layers.MaxPooling2D(2)(tensor)),
        "average pool": lambda tensor: pointwise(layers.AveragePooling2D(2)(tensor)),
        # Wide, so that the stem's weights, which are not pruned, are few.
        "like MobileNet": lambda tensor: pointwise(pointwise(depthwise(tensor, strides=2), width=8 * WIDTH)),
        "inner 3x3": lambda tensor: layers.Conv2D(WIDTH, 3, padding="same", activation="relu")(tensor),
    }


def network(name: str, batch: int | None = 1) -> Any:
    """A network of the pattern `name`, with random weights, 90 % zeros in its 1x1 convolutions."""
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    image = keras.Input((SIZE, SIZE, 1 if name == "1 channel" else 3), batch_size=batch)
    begins = {
        "stem same": {"padding": "same"},
        "like MobileNet": {"padding": "same"},
        "stem stride 1": {"strides": 1},
    }
    tensor = middle = middles().get(name, lambda tensor: tensor)(block()(stem(image, **begins.get(name, {}))))
    tensor = block()(tensor)
    if name == "max tail":
        tensor = layers.GlobalMaxPooling2D()(tensor)
    elif name == "average pool tail":
        tensor = layers.Flatten()(layers.AveragePooling2D(tensor.shape[1])(tensor))
    elif name in ("convolution after the mean", "like MobileNet"):
        mean = layers.GlobalAveragePooling2D(keepdims=True)(tensor)
        tensor = layers.Flatten()(layers.Conv2D(4, 1)(mean))
    elif name == "flatten after the mean":
        tensor = layers.Dense(4)(layers.Flatten()(layers.GlobalAveragePooling2D(keepdims=True)(tensor)))
    else:
        tensor = layers.Dense(4)(layers.GlobalAveragePooling2D()(tensor))
    model = keras.Model(image, [tensor, middle] if name == "second output" else tensor)
    _prune(model)
    return model


def _prune(model: Any) -> None:
    random = np.random.default_rng(0)
    for layer in model.layers:
        weights = layer.get_weights()
        if weights and weights[0].shape[:2] == (1, 1):
            keep = random.permutation(weights[0].size) < weights[0].size / 10
            layer.set_weights([weights[0] * keep.reshape(weights[0].shape), *weights[1:]])


@functools.cache
def sparse_file(name: str, batch: int | None = 1) -> bytes:
    """The file of a network, with the weights of its 1x1 convolutions behind DENSIFY."""
    return tensorflow_file(network(name, batch), sparse=True)


@functools.cache
def dense_file(name: str) -> bytes:
    """The file of a network, everything in it stored densely."""
    return tensorflow_file(network(name), sparse=False)


def tensorflow_file(model: Any, *, sparse: bool, float16: bool = False) -> bytes:
    """TensorFlow's own conversion, its sparsity switched on or off."""
    import tensorflow as tf

    from pipeline.models.quiet import quiet

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY] if sparse else []
    if float16:
        converter.optimizations.append(tf.lite.Optimize.DEFAULT)
        converter.target_spec.supported_types = [tf.float16]
    with quiet():
        return bytes(converter.convert())

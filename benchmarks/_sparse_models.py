"""Pruned networks whose sparse files are worth timing: seeded masks, and weights that keep the signal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.models.quiet import keras_module, quiet

MOBILENET_WIDTHS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
# The blocks of MobileNetV1 that halve the image.
HALVING = (1, 3, 5, 11)
LARGE = (2048, 4096)


def build(name: str) -> Any:
    """The network `name` (a key of `NETWORKS`), of batch 1, with 90 % zeros where its kernels could use them."""
    keras = keras_module()
    keras.backend.clear_session()
    with quiet():
        return NETWORKS[name]()


def mobilenet_by_rule(size: int) -> Any:
    """MobileNetV1 as its authors drew it, but padded by 1 where it halves the image, as a cluster needs it."""
    layers = keras_module().layers
    image = keras_module().Input(batch_shape=(1, size, size, 3))
    x = layers.Conv2D(32, 3, strides=2)(layers.ZeroPadding2D(1)(image))
    for number, width in enumerate(MOBILENET_WIDTHS):
        x = layers.ReLU(6)(x)
        if number in HALVING:
            x = layers.DepthwiseConv2D(3, strides=2)(layers.ZeroPadding2D(1)(x))
        else:
            x = layers.DepthwiseConv2D(3, padding="same")(x)
        x = layers.Conv2D(width, 1)(layers.ReLU(6)(x))
    x = layers.Dense(1000)(layers.GlobalAveragePooling2D()(layers.ReLU(6)(x)))
    return pruned(keras_module().Model(image, x), 1)


def keras_mobilenet(name: str, size: int, top: bool) -> Any:
    """A network of `keras.applications` as it comes, without its trained weights; `top`: with the classes."""
    keras = keras_module()
    made = getattr(keras.applications, name)(
        input_shape=(size, size, 3), weights=None, include_top=top, pooling=None if top else "avg"
    )
    image = keras.Input(batch_shape=(1, size, size, 3))
    return pruned(keras.Model(image, made(image)), 1)


def dense_layers(*widths: int, block: int) -> Any:
    """Layers of `widths[0]` inputs and so many outputs each, with zeros in blocks of `block` neighbouring inputs."""
    keras = keras_module()
    layers = [keras.layers.Dense(width, activation="relu") for width in widths[1:-1]]
    layers.append(keras.layers.Dense(widths[-1]))
    return pruned(keras.Sequential([keras.Input(batch_shape=(1, widths[0])), *layers]), block)


def digits_cnn() -> Any:
    """A small network for 8 x 8 images, with convolutions that no sparse kernel computes."""
    keras = keras_module()
    layers = keras.layers
    network = [
        layers.Conv2D(16, 3, padding="same", activation="relu"),
        layers.Conv2D(32, 3, padding="same", activation="relu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(64, activation="relu"),
        layers.Dense(10, activation="softmax"),
    ]
    return pruned(keras.Sequential([keras.Input(batch_shape=(1, 8, 8, 1)), *network]), 4)


def pruned(model: Any, block: int, zeros: float = 0.9) -> Any:
    """Give every kernel seeded weights, of 1x1 convolutions and dense layers with this share of zeros.

    What is left is drawn as large as keeps the signal: of variance 2 / (inputs that count). Softmax over numbers that
    died away would agree with anything. Batch normalisations get seeded shifts.
    """
    random = np.random.default_rng(0)
    for layer in model._flatten_layers(include_self=False, recursive=True):
        if isinstance(layer, keras_module().layers.BatchNormalization):
            gamma, beta, mean, variance = layer.get_weights()
            layer.set_weights([gamma, random.normal(0, 0.1, beta.shape), mean, variance])
        elif hasattr(layer, "kernel"):
            kernel, *rest = layer.get_weights()
            layer.set_weights(
                [
                    _kernel(kernel.shape, layer, block, zeros, random),
                    *(random.normal(0, 0.1, each.shape) for each in rest),
                ]
            )
    return model


def _kernel(
    shape: tuple[int, ...], layer: Any, block: int, zeros: float, random: np.random.Generator
) -> np.ndarray:
    matrix = len(shape) == 2 or shape[:2] == (1, 1)
    inputs = int(np.prod(shape[:2])) if "Depthwise" in type(layer).__name__ else int(np.prod(shape[:-1]))
    values = random.normal(0, np.sqrt(2 / inputs), shape)
    if not matrix:
        return values
    kept = np.repeat(random.random((-(-shape[-2] // block), shape[-1])) >= zeros, block, axis=0)
    return np.where(kept[: shape[-2]].reshape(shape), values / np.sqrt(1 - zeros), 0)


NETWORKS: dict[str, Callable[[], Any]] = {
    "MobileNetV1 by the rules, 224": lambda: mobilenet_by_rule(224),
    "MobileNetV1 by the rules, 96": lambda: mobilenet_by_rule(96),
    "keras MobileNet, 224": lambda: keras_mobilenet("MobileNet", 224, True),
    "keras MobileNet without top, 224": lambda: keras_mobilenet("MobileNet", 224, False),
    "keras MobileNetV2, 224": lambda: keras_mobilenet("MobileNetV2", 224, True),
    "keras MobileNetV2 without top, 224": lambda: keras_mobilenet("MobileNetV2", 224, False),
    "keras MobileNet, 96": lambda: keras_mobilenet("MobileNet", 96, True),
    "keras MobileNetV2, 96": lambda: keras_mobilenet("MobileNetV2", 96, True),
    "MLPNet x 8, blocks of 4": lambda: dense_layers(784, 320, 160, 10, block=4),
    "MLPNet x 8, single weights": lambda: dense_layers(784, 320, 160, 10, block=1),
    "LeNet-300-100, blocks of 4": lambda: dense_layers(784, 300, 100, 10, block=4),
    "LeNet-300-100, single weights": lambda: dense_layers(784, 300, 100, 10, block=1),
    "digits CNN": digits_cnn,
    "one layer of 32 MiB, blocks of 4": lambda: dense_layers(*LARGE, block=4),
}

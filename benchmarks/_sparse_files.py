"""Files with every kind of kernel that can be stored sparsely, as TensorFlow's converter makes them."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.models.quiet import keras_module, quiet

SHAPE = (8, 8, 3)


def convert(precision: str, sparse: bool = False, block: int = 4, zeros: float = 0.9) -> bytes:
    """A network of all four kinds of kernel with this share of zeros, the last matrix in blocks of 1 x `block`;
    `sparse`: by the sparse conversion of TensorFlow's own."""
    keras = keras_module()
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(_network(keras, block, zeros))
    converter.optimizations = [tf.lite.Optimize.DEFAULT] * (precision != "float32")
    converter.optimizations += [tf.lite.Optimize.EXPERIMENTAL_SPARSITY] * sparse
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    elif precision == "int8":
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = lambda: ([sample[None]] for sample in samples(16))
    with quiet():
        return bytes(converter.convert())


def samples(count: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, *SHAPE)).astype(np.float32)


def _network(keras: Any, block: int, zeros: float) -> Any:
    layers = keras.layers
    network = [
        layers.Conv2D(16, 3, padding="same", activation="relu", name="wide"),
        layers.Conv2D(24, 1, activation="relu", name="pointwise"),
        layers.DepthwiseConv2D(3, padding="same", name="depthwise"),
        layers.Conv2DTranspose(8, 3, strides=2, padding="same", name="transposed"),
        layers.Flatten(name="flat"),
        layers.Dense(64, activation="relu", name="hidden"),
        layers.Dense(10, name="last"),
    ]
    model = keras.Sequential([keras.Input(batch_shape=(1, *SHAPE)), *network], name="sparse")
    random = np.random.default_rng(0)
    for layer in model.layers:
        if layer.get_weights():
            kernel, bias = layer.get_weights()
            kept = random.random(kernel.shape) >= zeros
            if layer is model.layers[-1]:
                kept = np.repeat(random.random((kernel.shape[0] // block, 10)) >= zeros, block, axis=0)
            kernel = np.where(kept, random.normal(size=kernel.shape), 0)
            layer.set_weights([kernel, random.normal(size=bias.shape)])
    return model

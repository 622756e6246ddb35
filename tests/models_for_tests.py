"""Small TFLite models with answers that are known without a TFLite interpreter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.models.samples import NamedArrays
from pipeline.sparse_tflite.keras_conversion import to_tflite


def write_dense_model(path: Path, *, relu: bool = True) -> Any:
    """Write a model of 4 inputs and 3 outputs, relu(x W + b); returns x (N x 4) -> outputs (N x 3)."""
    import tensorflow as tf

    random = np.random.default_rng(7)
    weights, bias = (random.normal(size=size).astype(np.float32) for size in ((4, 3), (3,)))

    @tf.function(input_signature=[tf.TensorSpec([1, 4], tf.float32)])  # type: ignore[untyped-decorator]
    def model(x: Any) -> Any:
        y = tf.matmul(x, weights) + bias
        return tf.nn.relu(y) if relu else y

    converter = tf.lite.TFLiteConverter.from_concrete_functions([model.get_concrete_function()])
    path.write_bytes(converter.convert())

    def answer(x: NDArray[np.float32]) -> NDArray[np.float32]:
        y = x @ weights + bias
        return np.maximum(y, 0) if relu else y

    return answer


def write_absolute_model(path: Path) -> Any:
    """Write a model of 4 inputs and outputs, FLOOR then ABS then CEIL; returns the function x -> outputs."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([1, 4], tf.float32)])  # type: ignore[untyped-decorator]
    def model(x: Any) -> Any:
        return tf.math.ceil(tf.abs(tf.floor(x)))

    converter = tf.lite.TFLiteConverter.from_concrete_functions([model.get_concrete_function()])
    path.write_bytes(converter.convert())
    return lambda x: np.ceil(np.abs(np.floor(x)))


def write_model_of_several_ports(path: Path, given: Mapping[str, NDArray[Any]] | None = None) -> Any:
    """Write a model with the inputs `tokens` (3,) int32 and `numbers` (2,) and the outputs `sum` (1,) and `looked_up`
    (4,); returns the function (tokens, numbers) -> those by name. With inputs `given` to tell the ranges, it is one of
    int8 throughout."""
    import keras

    tokens = keras.Input((3,), dtype="int32", name="tokens")
    numbers = keras.Input((2,), name="numbers")
    table = np.random.default_rng(8).normal(size=(6, 4)).astype(np.float32)
    words = keras.layers.Embedding(6, 4, name="words")
    looked_up = keras.layers.Dense(4, use_bias=False, kernel_initializer="identity", name="looked_up")
    total = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", name="sum")
    mean = keras.layers.GlobalAveragePooling1D()(words(tokens))
    # Neither inputs nor outputs in the order in which a converter would sort them.
    model = keras.Model([numbers, tokens], [total(numbers), looked_up(mean)])
    words.set_weights([table])
    path.write_bytes(
        to_tflite(model) if given is None else to_tflite(model, "int8", NamedArrays(given), "int8")
    )

    def answer(tokens: NDArray[np.int32], numbers: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        return {"sum": numbers.sum(axis=1, keepdims=True), "looked_up": table[tokens].mean(axis=1)}

    return answer

"""Small TFLite models with answers that are known without a TFLite interpreter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def write_dense_model(path: Path, *, relu: bool = True, second_output: bool = False) -> Any:
    """Write a model of 4 inputs and 3 outputs, relu(x W + b); returns x (N x 4) -> outputs (N x 3)."""
    import tensorflow as tf

    random = np.random.default_rng(7)
    weights, bias = (random.normal(size=size).astype(np.float32) for size in ((4, 3), (3,)))

    @tf.function(input_signature=[tf.TensorSpec([1, 4], tf.float32)])  # type: ignore[untyped-decorator]
    def model(x: Any) -> Any:
        y = tf.matmul(x, weights) + bias
        y = tf.nn.relu(y) if relu else y
        return (y, y + 1) if second_output else y

    converter = tf.lite.TFLiteConverter.from_concrete_functions([model.get_concrete_function()])
    path.write_bytes(converter.convert())

    def answer(x: NDArray[np.float32]) -> NDArray[np.float32]:
        y = x @ weights + bias
        return np.maximum(y, 0) if relu else y

    return answer

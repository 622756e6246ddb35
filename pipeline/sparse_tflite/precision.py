"""In which numbers a converted model computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

Precision = Literal["float32", "float16", "dynamic_range", "int8"]
# What an int8 model takes and gives.
Io = Literal["float", "int8", "uint8"]


def configure(
    converter: Any,
    precision: Precision,
    representative: Sequence[Mapping[str, np.ndarray]],
    io: Io = "float",
) -> None:
    """Set up TensorFlow's converter. `representative` are samples that tell the ranges of what int8 computes: each
    holds every input, of batch 1, by name.

    `float16` stores the weights so and computes in it where the processor can; `dynamic_range` stores them in int8 and
    measures all else as it runs; of `int8` only the inputs and outputs are float32, or with another `io` not even they.
    """
    import tensorflow as tf

    if precision == "float32":
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    elif precision == "dynamic_range":
        # A scale for each output needs a version of FULLY_CONNECTED that tflite-runtime does not have.
        converter._experimental_disable_per_channel_quantization_for_dense_layers = True
    else:
        if not representative:
            raise ValueError("int8 needs representative inputs, received none")
        converter.representative_dataset = lambda: iter(representative)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        if io != "float":
            converter.inference_input_type = converter.inference_output_type = tf.dtypes.as_dtype(io)

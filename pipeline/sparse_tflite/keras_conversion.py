"""From a Keras model to a dense .tflite file of batch 1, by TensorFlow's converter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.models.ports import Port, as_inputs, input_ports, output_names, output_ports
from pipeline.models.quiet import keras_module, quiet
from pipeline.models.samples import Samples, in_order
from pipeline.sparse_tflite.port_names import with_port_names
from pipeline.sparse_tflite.precision import Io, Precision, configure
from pipeline.sparse_tflite.rewrites import carry_out, zero_bias


def to_tflite(
    model: Any,
    precision: Precision = "float32",
    representative: Samples | None = None,
    io: Io = "float",
) -> bytes:
    """Convert; a lone input is named `input`, and its tensor as the converter likes. Several inputs and outputs are in
    the model's order, their tensors named as its ports. Types are the model's, the batch is 1. `representative` inputs
    are for int8.

    Raises `UserError` with what the converter refused.
    """
    keras = keras_module()
    import tensorflow as tf

    entrances, exits = input_ports(model), output_ports(model)
    several = len(entrances) > 1 or len(exits) > 1
    for port in entrances:
        if None in port.shape:
            raise UserError(
                f"convert: the model's input shape {(None, *port.shape)} is not fixed; only the batch may be open"
            )
    # Names of its own, or Keras numbers them, and the file would differ from run to run; a port's may be refused.
    batch_one = [
        keras.Input(
            batch_shape=(1, *port.shape), dtype=port.dtype, name=f"input_{at}" if several else "input"
        )
        for at, port in enumerate(entrances)
    ]
    with quiet():
        try:
            found = keras.tree.flatten(model(as_inputs(model, batch_one)))
            outputs = {f"output_{at}": output for at, output in enumerate(found)}
            wrapper = keras.Model(batch_one, outputs if several else found[0], name="batch_one")
            converter = tf.lite.TFLiteConverter.from_keras_model(wrapper)
            configure(converter, precision, _samples_by_name(batch_one, entrances, representative), io)
            converted = bytes(converter.convert())
        except Exception as error:
            first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise UserError(
                f"convert: TensorFlow {tf.__version__} cannot convert the model: {first.strip()}"
            ) from error
    if precision == "int8":
        converted, _ = carry_out(converted, {"zero_bias": zero_bias})
    if not several:
        return converted
    inputs = {f"input_{at}": port.name for at, port in enumerate(entrances)}
    return with_port_names(converted, inputs, dict(zip(outputs, output_names(model), strict=True)))


def _samples_by_name(
    inputs: Sequence[Any], ports: Sequence[Port], samples: Samples | None
) -> list[dict[str, np.ndarray]]:
    """The samples one at a time, each input of batch 1 by the name that it is converted under."""
    if samples is None:
        return []
    arrays = in_order(samples, [port.name for port in ports])
    return [
        {
            entry.name: array[number][None].astype(entry.dtype)
            for entry, array in zip(inputs, arrays, strict=True)
        }
        for number in range(len(samples))
    ]

"""From a Keras model to a dense .tflite file of batch 1, by TensorFlow's converter."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.models.ports import Port, as_inputs, input_ports, output_names, output_ports
from pipeline.models.quiet import keras_module, quiet
from pipeline.models.samples import Samples, in_order, of_names
from pipeline.sparse_tflite.port_names import with_port_names
from pipeline.sparse_tflite.precision import Io, Precision, configure
from pipeline.sparse_tflite.quantum import dequantised, quantised


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


def outputs_on_host(content: bytes, inputs: Samples) -> Samples:
    """The answers of TensorFlow's own interpreter on this machine, inputs (n, ...) one at a time.

    Several inputs and outputs go by the names of their tensors; where these are whole numbers that stand for real ones,
    the real ones go in and come out. Raises `UserError` when it cannot run the file.
    """
    import tensorflow as tf

    with quiet():
        with _refusal_is_told():
            interpreter = tf.lite.Interpreter(model_content=content)
            interpreter.allocate_tensors()
        sources, sinks = interpreter.get_input_details(), interpreter.get_output_details()
        arrays = in_order(inputs, [source["name"] for source in sources])
        answers: list[list[np.ndarray]] = [[] for _ in sinks]
        for number in range(len(inputs)):
            with _refusal_is_told():
                for source, array in zip(sources, arrays, strict=True):
                    interpreter.set_tensor(source["index"], _taken(source, array[number][None]))
                interpreter.invoke()
                for sink, found in zip(sinks, answers, strict=True):
                    found.append(_given(sink, interpreter.get_tensor(sink["index"])[0].copy()))
        return of_names([np.stack(found) for found in answers], [sink["name"] for sink in sinks])


def _taken(source: Mapping[str, Any], array: np.ndarray) -> np.ndarray:
    """An input in the tensor's type: whole numbers that stand for real ones are made of these."""
    scale, zero_point = source["quantization"]
    if scale and array.dtype.kind == "f" and np.dtype(source["dtype"]).kind in "iu":
        return quantised(array, scale, zero_point, source["dtype"])
    return array.astype(source["dtype"])


def _given(sink: Mapping[str, Any], array: np.ndarray) -> np.ndarray:
    """An output in real numbers."""
    scale, zero_point = sink["quantization"]
    return dequantised(array, scale, zero_point) if scale and array.dtype.kind in "iu" else array


@contextlib.contextmanager
def _refusal_is_told() -> Iterator[None]:
    """What the interpreter will not do in the block is a `UserError` about the file."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the interpreter of TensorFlow on this machine cannot run the .tflite file: {error}"
        ) from error

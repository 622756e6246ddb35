"""From a Keras model to a dense float32 .tflite file of batch 1, by TensorFlow's converter."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.models.quiet import keras_module, quiet


def to_tflite(model: Any) -> bytes:
    """Convert; the input is named `input` and has batch 1. Raises `UserError` with what the converter refused."""
    keras = keras_module()
    import tensorflow as tf

    batch_one = keras.Input(batch_shape=(1, *model.input_shape[1:]), name="input")
    if None in batch_one.shape:
        raise UserError(
            f"convert: the model's input shape {model.input_shape} is not fixed; only the batch may be open"
        )
    with quiet():
        try:
            # A name of its own, or Keras numbers it, and the file would differ from run to run.
            wrapper = keras.Model(batch_one, model(batch_one), name="batch_one")
            converter = tf.lite.TFLiteConverter.from_keras_model(wrapper)
            return bytes(converter.convert())
        except Exception as error:
            first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise UserError(
                f"convert: TensorFlow {tf.__version__} cannot convert the model: {first.strip()}"
            ) from error


def outputs_on_host(content: bytes, inputs: np.ndarray) -> np.ndarray:
    """The answers of TensorFlow's own interpreter on this machine, inputs (n, ...) one at a time.

    Raises `UserError` when it cannot run the file.
    """
    import tensorflow as tf

    with quiet():
        try:
            interpreter = tf.lite.Interpreter(model_content=content)
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"the interpreter of TensorFlow {tf.__version__} on this machine cannot run the .tflite file: {error}"
            ) from error
        source, sink = (
            interpreter.get_input_details()[0]["index"],
            interpreter.get_output_details()[0]["index"],
        )
        answers = []
        for sample in inputs.astype(np.float32):
            interpreter.set_tensor(source, sample[None])
            interpreter.invoke()
            answers.append(interpreter.get_tensor(sink)[0].copy())
        return np.stack(answers)

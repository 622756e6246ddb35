"""A float .tflite file that stands where a Keras model would: taken as it is, and run by the host's interpreter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import UserError
from pipeline.sparse_tflite.flatbuffer import damage_is_told, read_model
from pipeline.sparse_tflite.keras_conversion import outputs_on_host
from pipeline.sparse_tflite.schema import schema
from pipeline.sparse_tflite.signature import one_float_input, read_signature


@dataclass(frozen=True)
class FloatModel:
    """The file's bytes; `input_shape` is that of a sample, `parameters` counts the values of its constants."""

    content: bytes
    input_shape: tuple[int, ...]
    parameters: int

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """The answers (n, ...) to `inputs` (n, ...), one at a time. Raises `UserError` when the host cannot run it."""
        return outputs_on_host(self.content, inputs)


def read_float_model(path: Path) -> FloatModel:
    """Read a file of one float32 input, of batch 1, and one output. Raises `UserError` for any other."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    tensor = one_float_input(read_signature(content, str(path)), str(path))
    return FloatModel(content, tensor.shape[1:], _parameters(content, str(path)))


def _parameters(content: bytes, name: str) -> int:
    """How many values the constants hold that are no shapes or indices; shared ones count once."""
    model, kinds = read_model(content, name), schema().TensorType
    weight_types = (kinds.FLOAT32, kinds.FLOAT16, kinds.INT8, kinds.UINT8)
    with damage_is_told(name):
        sizes = {
            tensor.buffer: int(np.prod(tensor.shape, dtype=np.int64))
            for graph in model.subgraphs
            for tensor in graph.tensors
            if tensor.type in weight_types and model.buffers[tensor.buffer].data is not None
        }
    return sum(sizes.values())

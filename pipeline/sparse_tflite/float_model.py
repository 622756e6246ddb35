"""A float .tflite file that stands where a Keras model would: taken as it is, and run by the host's interpreter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import UserError
from pipeline.models.ports import Port
from pipeline.models.samples import Samples
from pipeline.sparse_tflite.flatbuffer import damage_is_told, read_model
from pipeline.sparse_tflite.host_interpreter import outputs_on_host
from pipeline.sparse_tflite.schema import schema
from pipeline.sparse_tflite.signature import check_batch_one, read_signature

# Quantised files take other types, and their scales would have to be applied to the samples.
TAKEN = ("float32", "int32", "int64", "bool")


@dataclass(frozen=True)
class FloatModel:
    """The file's bytes, its inputs and outputs; `parameters` counts the values of its constants."""

    content: bytes
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    parameters: int

    def predict(self, inputs: Samples) -> Samples:
        """The answers (n, ...) to `inputs` (n, ...), one at a time. Raises `UserError` when the host cannot run it."""
        return outputs_on_host(self.content, inputs)


def read_float_model(path: Path) -> FloatModel:
    """Read a file of batch 1 that takes float32 or whole numbers. Raises `UserError` for any other."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    signature = read_signature(content, str(path))
    check_batch_one(signature, str(path))
    for tensor in signature.inputs:
        if tensor.dtype not in TAKEN:
            raise UserError(
                f"{path}: expected inputs of the types {', '.join(TAKEN)}, received {tensor.dtype} at {tensor.name}"
            )
    inputs, outputs = (
        tuple(Port(tensor.name, tensor.shape[1:], tensor.dtype, "") for tensor in tensors)
        for tensors in (signature.inputs, signature.outputs)
    )
    return FloatModel(content, inputs, outputs, _parameters(content, str(path)))


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

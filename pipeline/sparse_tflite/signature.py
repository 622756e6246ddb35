"""What a .tflite file takes and gives."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from pipeline.errors import UserError
from pipeline.sparse_tflite.flatbuffer import damage_is_told, read_model
from pipeline.sparse_tflite.quantum import quantisation
from pipeline.sparse_tflite.schema import schema

# Of these types are the inputs and outputs that stand for real numbers.
BYTES = ("int8", "uint8")


class TensorSignature(BaseModel):
    """An input or output: its name, its shape with the batch, its type as numpy names it; of whole numbers that stand
    for real ones also `scale` and `zero_point`: real = scale * (number - zero_point).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None

    @property
    def taken(self) -> str:
        """The type of samples for it: real numbers where it stands for such."""
        return self.dtype if self.scale is None else "float32"


class Signature(BaseModel):
    """The inputs and outputs of a model, in order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: tuple[TensorSignature, ...]
    outputs: tuple[TensorSignature, ...]


def read_signature(content: bytes, name: str) -> Signature:
    """The signature of the file's first subgraph; raises `UserError` when it is no TFLite file."""
    model = read_model(content, name)
    if not model.subgraphs:
        raise UserError(f"{name}: holds no graph")
    with damage_is_told(name):
        graph = model.subgraphs[0]
        return Signature(
            inputs=tuple(_tensor(graph.tensors[index]) for index in graph.inputs),
            outputs=tuple(_tensor(graph.tensors[index]) for index in graph.outputs),
        )


def check_batch_one(signature: Signature, name: str) -> None:
    """Raise `UserError` where the inputs of a file are not of batch 1, or there are none."""
    if not signature.inputs or not signature.outputs:
        missing = "outputs" if signature.inputs else "inputs"
        raise UserError(f"{name}: has no {missing}; expected a model that computes something of its inputs")
    for tensor in signature.inputs:
        if tensor.shape[:1] != (1,):
            raise UserError(f"{name}: expected inputs of batch 1, received {tensor.name} {tensor.shape}")


def _tensor(tensor: Any) -> TensorSignature:
    kinds = {
        value: kind.lower() for kind, value in vars(schema().TensorType).items() if not kind.startswith("_")
    }
    dtype = kinds[tensor.type]
    scale, zero_point = quantisation(tensor) if dtype in BYTES else (None, None)
    return TensorSignature(
        name=tensor.name.decode(),
        shape=tuple(int(size) for size in tensor.shape),
        dtype=dtype,
        scale=scale,
        zero_point=zero_point,
    )

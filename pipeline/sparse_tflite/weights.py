"""The constants of a .tflite file that operators multiply with, and who reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.sparse_tflite.schema import schema

# A subgraph and a tensor in it, by their indices.
Key = tuple[int, int]
# Of these operators input 1 is the kernel.
KERNEL_AT = 1


@dataclass(frozen=True)
class Reader:
    """An operator that takes a tensor as its input number `position`."""

    kind: str
    operator: Any
    position: int


def weights_of(model: Any) -> Iterator[tuple[Key, list[Reader]]]:
    """Every constant that looks like weights, once, and all its readers, in the order in which they run."""
    for number, graph in enumerate(model.subgraphs):
        readers: dict[int, list[Reader]] = {}
        for operator in graph.operators:
            for position, index in enumerate(operator.inputs):
                if index >= 0 and _is_weight(model, graph.tensors[index]):
                    reader = Reader(operator_name(model, operator), operator, position)
                    readers.setdefault(int(index), []).append(reader)
        yield from (((number, index), found) for index, found in readers.items())


def values_of(model: Any, tensor: Any) -> NDArray[Any] | None:
    """The values of a constant dense tensor in its shape; None when it is not one, or of a type that no numpy array
    has. Raises `ValueError` when data and shape contradict each other."""
    data, dtype = model.buffers[tensor.buffer].data, _types().get(tensor.type)
    if data is None or dtype is None or tensor.sparsity is not None:
        return None
    return np.asarray(data, dtype=np.uint8).view(dtype).reshape(tensor.shape)


def operator_name(model: Any, operator: Any) -> str:
    """The name in the schema, with that of a custom operator in brackets."""
    code = model.operatorCodes[operator.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    names: dict[int, str] = {
        value: name for name, value in vars(schema().BuiltinOperator).items() if not name.startswith("_")
    }
    name = names.get(number, f"operator {number}")
    return f"CUSTOM ({(code.customCode or b'').decode(errors='replace')})" if name == "CUSTOM" else name


def _is_weight(model: Any, tensor: Any) -> bool:
    """A constant of two dimensions or more, of a type that weights have (paddings and shapes are integers)."""
    kinds = schema().TensorType
    weight_types = (*_types(), kinds.UINT8, kinds.INT16, kinds.INT4)
    has_data = model.buffers[tensor.buffer].data is not None
    return has_data and tensor.shape is not None and len(tensor.shape) > 1 and tensor.type in weight_types


def _types() -> dict[int, str]:
    kinds = schema().TensorType
    return {kinds.FLOAT32: "<f4", kinds.FLOAT16: "<f2", kinds.INT8: "i1"}

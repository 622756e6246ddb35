"""What the tables of TFLite's schema say, in plain values: an operator's kind, a tensor."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.sparse_tflite.schema import schema

# Bytes of the largest constant that is told by its integers: the paddings of eight axes.
SMALL = 64


@dataclass(frozen=True)
class Tensor:
    """A tensor: `number` in its graph, `shape` as stored, `fixed` unless a size is open until the file is loaded.

    `integers` are what a small constant of whole numbers holds: axes, paddings. `sparse` ones have a layout of their
    own; without a value they are no constant. `scales`: how many scales its whole numbers have, 0 for real ones.
    """

    number: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    constant: bool
    fixed: bool
    integers: tuple[int, ...] | None
    sparse: bool = False
    scales: int = 0

    @property
    def spatial(self) -> int:
        """Positions between batch and channels: 1 for a vector, height times width for an image."""
        return int(np.prod(self.shape[1:-1], dtype=np.int64))


def kind_of(model: Any, operator: Any) -> tuple[str, int]:
    """The name of an operator as the schema spells it (`CUSTOM: name` for one of its own), and its version."""
    code = model.operatorCodes[operator.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    if number == schema().BuiltinOperator.CUSTOM:
        return f"CUSTOM: {(code.customCode or b'').decode(errors='replace')}", int(code.version)
    return _names("BuiltinOperator").get(number, f"operator {number}"), int(code.version)


@functools.cache
def _names(enumeration: str) -> dict[int, str]:
    values = vars(getattr(schema(), enumeration))
    return {value: name for name, value in values.items() if not name.startswith("_")}


def read_tensor(model: Any, number: int, tensor: Any) -> Tensor:
    shape = tuple(numbers(tensor.shape))
    dtype = _names("TensorType").get(tensor.type, f"type {tensor.type}").lower()
    data = np.asarray(vector(model.buffers[tensor.buffer].data), np.uint8)
    fixed = min((*numbers(tensor.shapeSignature), *shape, 0)) >= 0
    small = dtype == "int32" and 0 < data.nbytes <= SMALL
    integers = tuple(numbers(data.view("<i4"))) if small else None
    name = (tensor.name or b"").decode(errors="replace")
    scales = len(vector(tensor.quantization.scale)) if tensor.quantization else 0
    sparse = tensor.sparsity is not None
    return Tensor(number, name, shape, dtype, data.nbytes > 0, fixed, integers, sparse, scales)


def vector(found: Any) -> Any:
    """A vector of the schema's; an absent one is empty."""
    return () if found is None else found


def numbers(found: Any) -> list[int]:
    """A vector of whole numbers."""
    return [int(number) for number in vector(found)]

"""Budgets: what may be left of a model, as an alternative to a sparsity, and what is left of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.pruning.layer import Layer
from pipeline.sparse_tflite.encoding import estimated_bytes

Measure = Literal["parameters", "file_bytes", "macs"]


class Budget(BaseModel):
    """The most that may be left, by exactly one of these measures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameters: int | None = Field(
        None, ge=0, description="kernel weights that stay, and all the weights that cannot be pruned"
    )
    file_bytes: int | None = Field(
        None, ge=0, description="an estimate of the .tflite file's weights; its graph adds some kilobytes"
    )
    macs: int | None = Field(
        None, ge=0, description="multiply-accumulates of one sample with the kernel weights that stay"
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> Budget:
        if sum(value is not None for value in (self.parameters, self.file_bytes, self.macs)) != 1:
            raise ValueError("expected exactly one of parameters, file_bytes and macs")
        return self

    @property
    def measure(self) -> Measure:
        """Which it is."""
        return (
            "parameters" if self.parameters is not None else "macs" if self.macs is not None else "file_bytes"
        )

    @property
    def limit(self) -> int:
        """And how much."""
        return int(getattr(self, self.measure))


@dataclass(frozen=True)
class Fixed:
    """What the part of the model costs that is not up for pruning: its weights, and their multiply-accumulates."""

    parameters: int = 0
    macs: int = 0


def cost(measure: Measure, layers: Sequence[Layer], left: Mapping[str, int], fixed: Fixed) -> int:
    """What the model costs when `left` nonzero weights are left of each of `layers`.

    In a file every weight takes 4 bytes, but for those of Dense layers, which are stored sparsely where that is less.
    """
    if measure == "macs":
        return fixed.macs + sum(layer.positions * left[layer.name] for layer in layers)
    if measure == "parameters":
        return fixed.parameters + sum(left.values())
    return 4 * fixed.parameters + sum(_bytes(layer, left[layer.name]) for layer in layers)


def _bytes(layer: Layer, nonzeros: int) -> int:
    inputs, outputs = layer.weight.shape
    dense = 4 * int(np.prod(layer.weight.shape))
    return min(dense, estimated_bytes(outputs, inputs, nonzeros)) if layer.kind == "Dense" else dense

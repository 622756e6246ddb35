"""Magnitude: the smallest weights go; of blocks, those of the smallest L2 norm."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from pipeline.pruning import masks
from pipeline.pruning.granularity import Granularity
from pipeline.pruning.layer import Layer, Pruned, Quota, pruned

UNIT: Literal["loss", "relative"] = "relative"
GRANULARITY: Literal["element", "unit"] = "element"
NEEDS: frozenset[str] = frozenset()
ALLOCATIONS = ("uniform", "global", "erk", "row")


class Options(BaseModel):
    """Options of the method 'magnitude': none."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def scores(layer: Layer, granularity: Granularity, options: Options) -> NDArray[np.floating]:
    """The absolute value of every weight, or the L2 norm of every block: one threshold serves all layers."""
    return granularity.norm(layer.weight)


def prune(layer: Layer, granularity: Granularity, quota: Quota | None, options: Options) -> Pruned:
    """Remove the smallest; the others stay as they are."""
    mask = masks.by_quota(granularity.norm(layer.weight), layer.weight.shape, granularity, quota)
    share = 1 - np.count_nonzero(mask) / mask.size
    return pruned(layer, layer.weight, mask, f"The smallest {share:.1%} of its weights were removed.")

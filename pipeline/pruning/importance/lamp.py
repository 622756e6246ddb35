"""LAMP: the smallest weights go, each seen against those of its layer that would stay when it goes.

    score(u) = w_u^2 / sum of w_v^2 over v with abs(w_v) >= abs(w_u)

(Lee et al. 2021, layer-adaptive magnitude pruning.) Within a layer the order is that of magnitude; the score is made
to compare layers, of which each keeps its largest weight to the last. A block counts by its L2 norm.
"""

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
ALLOCATIONS = ("global",)


class Options(BaseModel):
    """Options of the method 'lamp': none."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def scores(layer: Layer, granularity: Granularity, options: Options) -> NDArray[np.floating]:
    """The score of every weight or block, 0 to 1; among equals the later is seen against fewer."""
    squares = np.square(granularity.norm(layer.weight), dtype=np.float64)
    order = np.argsort(squares, axis=None, kind="stable")
    ascending = squares.ravel()[order]
    staying = np.cumsum(ascending[::-1])[::-1]
    found = np.empty(squares.size)
    found[order] = np.divide(ascending, staying, out=np.zeros(squares.size), where=staying > 0)
    return found.reshape(squares.shape)


def prune(layer: Layer, granularity: Granularity, quota: Quota | None, options: Options) -> Pruned:
    """Remove the smallest; the others stay as they are."""
    mask = masks.by_quota(granularity.norm(layer.weight), layer.weight.shape, granularity, quota)
    share = 1 - np.count_nonzero(mask) / mask.size
    reason = f"{share:.1%} of its weights were removed: the smallest, against those that stay in each layer."
    return pruned(layer, layer.weight, mask, reason)

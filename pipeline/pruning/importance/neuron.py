"""Neuron: the units whose output weights add up to least go, whole."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from pipeline.pruning import masks

UNIT: Literal["loss", "relative"] = "relative"
GRANULARITY: Literal["element", "unit"] = "unit"
NEEDS: frozenset[str] = frozenset()


class Options(BaseModel):
    """Options of the method 'neuron'."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    score: Literal["abs", "sum"] = Field(
        "abs",
        description="of a unit: the sum of its output weights' absolute values, or of the weights as they are",
    )


def keep(outgoing: NDArray[np.floating], sparsity: float, options: Options) -> NDArray[np.intp]:
    """The units that stay, sorted, by o_i = sum_j w_ij, where w_ij leads from unit i to unit j of the next layer.

    `outgoing` is (units, next_outputs). round(sparsity * units) of them go, those with the lowest o_i, but never all.
    """
    scores = (np.abs(outgoing) if options.score == "abs" else outgoing).sum(axis=1)
    removed = min(masks.removals(sparsity, len(scores)), len(scores) - 1)
    return np.flatnonzero(masks.by_count([scores], removed)[0])

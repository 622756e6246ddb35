"""Neuron: the units whose output weights add up to least go, whole."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.pruning.importance import Senses, UnitOptions
from pipeline.pruning.surgery.groups import Group

UNIT: Literal["loss", "relative"] = "relative"
GRANULARITY: Literal["element", "unit"] = "unit"
NEEDS: frozenset[str] = frozenset()
ALLOCATIONS = ("uniform",)


class Options(UnitOptions):
    """Options of the method 'neuron'."""

    score: Literal["abs", "sum", "l2"] = Field(
        "abs",
        description="of a unit: the sum of its output weights' absolute values, or of the weights as they are, "
        "or the root of the sum of their squares",
    )


def scores(group: Group, senses: Senses, options: Options) -> NDArray[np.floating]:
    """o_i = sum_j w_ij (units,), where w_ij leads from unit i to j, a unit of any layer that reads i.

    All its weights there count: every position of a convolution's kernel, or after a Flatten; of a recurrent layer
    also those to the next step. 'l2' as in Li et al. 2017, there of a filter's own weights.
    """
    total = np.zeros(group.size)
    for consumer in group.consumers:
        outgoing = consumer.weight[consumer.rows].astype(np.float64).reshape(group.size, -1)
        if options.score == "l2":
            total += (outgoing**2).sum(axis=1)
        else:
            total += (np.abs(outgoing) if options.score == "abs" else outgoing).sum(axis=1)
    return np.sqrt(total) if options.score == "l2" else total

"""Taylor: the units go whose absence changes the training loss least, to first order. Needs labels.

With a gate z_i at what unit i gives to the layers that read it, 1 as it is and 0 without it, the loss L_n of sample n
changes by about -dL_n/dz_i. The score is the root mean square of that over the samples,

    sqrt(mean_n (dL_n/dz_i)^2),    dL_n/dz_i = sum over the unit's outgoing weights w of w dL_n/dw

(Molchanov et al. 2019, Importance Estimation for Neural Network Pruning, equation 8 with gates; the root makes it a
loss). In a trained model the derivatives add up to about nothing; their squares do not.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.pruning.importance import Senses, UnitOptions
from pipeline.pruning.surgery.groups import Group

UNIT: Literal["loss", "relative"] = "loss"
GRANULARITY: Literal["element", "unit"] = "unit"
NEEDS: frozenset[str] = frozenset({"calibration", "labels"})
ALLOCATIONS = ("uniform", "global")


class Options(UnitOptions):
    """Options of the method 'taylor'."""

    calibration_samples: int = Field(
        512,
        ge=1,
        description="training samples whose gradients judge the units, and by which the layers that read them are "
        "solved",
    )


def scores(group: Group, senses: Senses, options: Options) -> NDArray[np.floating]:
    """(units,): by how much the loss of a sample changes without the unit, in the root mean square."""
    gates = np.zeros((1, group.size))
    for consumer in group.consumers:
        gates = gates + senses.gates(consumer)[:, consumer.rows].sum(axis=2)
    found: NDArray[np.floating] = np.sqrt(np.mean(np.square(gates), axis=0))
    return found

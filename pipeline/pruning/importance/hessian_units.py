"""Hessian units: Optimal Brain Surgeon on whole units; the layers that read them make up for those that go.

A unit costs what the model's outputs lose by it, estimated from the Hessians of all layers that read it (see
`unit_obs`), each output of theirs weighted by how much the model's outputs depend on it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.pruning import obs, unit_obs
from pipeline.pruning.importance import Senses, UnitOptions
from pipeline.pruning.surgery.groups import Consumer, Group

UNIT: Literal["loss", "relative"] = "loss"
GRANULARITY: Literal["element", "unit"] = "unit"
NEEDS: frozenset[str] = frozenset({"calibration"})
ALLOCATIONS = ("uniform", "global")


class Options(UnitOptions):
    """Options of the method 'hessian_units'."""

    calibration_samples: int = Field(
        2048,
        ge=1,
        description="training inputs that make the Hessians, and by which the layers that read the units are solved",
    )


def scores(group: Group, senses: Senses, options: Options) -> NDArray[np.floating] | None:
    """(units,): what a unit costs once those that are missed less have left, no less than any of these; None where a
    reader is not Dense or a plain convolution, whose Hessian is not known.
    """
    fed = [_fed(consumer, senses, options) for consumer in group.consumers]
    known = [each for each in fed if each is not None]
    if not fed or len(known) < len(fed):
        return None
    order, losses = unit_obs.removal_order(known, group.size)
    found, least = np.empty(group.size), 0.0
    for unit, loss in zip(order, losses, strict=True):
        # Never equal, so that the order is that of the scores.
        found[unit] = least = max(float(loss), float(np.nextafter(least, np.inf)))
    return found


def _fed(consumer: Consumer, senses: Senses, options: Options) -> unit_obs.Fed | None:
    moments = senses.moments(consumer.layer)
    if moments is None:
        return None
    hessian, _ = obs.damped(moments.hessian, options.damping)
    # A bias, the last input, is nobody's: it makes up for the units that go as the weights do.
    weight = np.zeros((len(hessian), consumer.weight.shape[1]))
    weight[: len(consumer.weight)] = consumer.weight * np.sqrt(senses.sensitivity(consumer.layer))
    return unit_obs.Fed(weight, hessian, consumer.rows)

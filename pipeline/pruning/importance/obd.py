"""OBD: the weights go of which the diagonal of the Hessian says that they cost least, H_ii w_ij^2 / 2.

(LeCun, Denker & Solla 1990, Optimal Brain Damage; layer by layer, H = 2/n sum x x^T for each of the layer's outputs.)
What inputs have to do with each other is left out, and the others stay as they are: the cheap baseline to `hessian`.
A block costs what its weights cost together.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.pruning import masks
from pipeline.pruning.granularity import Granularity
from pipeline.pruning.importance import HessianOptions
from pipeline.pruning.layer import Layer, Pruned, Quota, pruned
from pipeline.pruning.scale import of_outputs

UNIT: Literal["loss", "relative"] = "loss"
GRANULARITY: Literal["element", "unit"] = "element"
NEEDS: frozenset[str] = frozenset({"calibration"})
ALLOCATIONS = ("global", "uniform", "erk", "row")


class Options(HessianOptions):
    """Options of the method 'obd'."""


def scores(layer: Layer, granularity: Granularity, options: Options) -> NDArray[np.floating]:
    """What each weight or block costs, on the scale that compares layers."""
    return _costs(layer, layer.moments().hessian, granularity, options)


def prune(layer: Layer, granularity: Granularity, quota: Quota | None, options: Options) -> Pruned:
    """Remove what costs least; the others stay as they are."""
    hessian = layer.moments().hessian
    costs = _costs(layer, hessian, granularity, options)
    mask = masks.by_quota(costs, layer.weight.shape, granularity, quota)
    removed = np.where(mask, 0, layer.weight.astype(np.float64))
    share = 1 - np.count_nonzero(mask) / mask.size
    return pruned(
        layer,
        layer.weight,
        mask,
        f"The {share:.1%} of its weights with the least curvature times square were removed.",
        loss_increase=float(np.sum(removed * (hessian @ removed)) / 2),
    )


def _costs(
    layer: Layer, hessian: NDArray[np.float64], granularity: Granularity, options: Options
) -> NDArray[np.float64]:
    weight = layer.weight.astype(np.float64)
    costs = np.diag(hessian)[:, None] * weight**2 / 2 * of_outputs(layer, hessian, options.scale)
    return granularity.fold(costs)

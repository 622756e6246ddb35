"""Hessian: layer-wise Optimal Brain Surgeon; the weights that stay make up for those that go.

Layers are pruned in the order in which the model runs, each on the inputs x that the layers pruned before it now
give, towards the outputs x0^T W it had as trained. Of all weights those with the least error are then not W but

    W' = (H + lambda I)^-1 (H + lambda I + D) W,    H = 2/n sum x x^T,    D = 2/n sum x (x0 - x)^T

(the normal equations, lambda holding W' to W), so a layer also repairs what those before it broke. Optimal Brain
Surgeon starts at W', where the error's gradient is zero, as it needs to be.

What every layer gives is settled before the first is pruned. The exact search for what goes costs d^3 r multiplications
for d inputs and r outputs; layers for which that is too much are swept (see `sweep`), and either way the weights that
stay are then solved for exactly, where that is affordable.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.pruning import masks, obs, sweep
from pipeline.pruning.granularity import Granularity
from pipeline.pruning.importance import HessianOptions
from pipeline.pruning.layer import Layer, Pruned, Quota, pruned
from pipeline.pruning.scale import of_outputs

UNIT: Literal["loss", "relative"] = "loss"
GRANULARITY: Literal["element", "unit"] = "element"
NEEDS: frozenset[str] = frozenset({"calibration"})
ALLOCATIONS = ("global", "uniform", "erk", "row")


class Options(HessianOptions):
    """Options of the method 'hessian'."""

    damping: float = Field(
        0.01, ge=1e-6, le=1, description="added to the Hessian's diagonal, as a share of its mean"
    )
    max_fan_in: int = Field(
        1024, ge=1, description="layers with more inputs are swept: the exact search takes the cube in time"
    )
    max_gigaflops: float = Field(
        20,
        ge=0,
        description="layers whose exact search takes more are swept; the exact solve is held to it, too",
    )


def scores(layer: Layer, granularity: Granularity, options: Options) -> NDArray[np.floating]:
    """What one block after another costs, on the scale that compares layers; where it stands means nothing."""
    moments = layer.moments()
    hessian, _ = obs.damped(moments.hessian, options.damping)
    weight = layer.weight.astype(np.float64) * np.sqrt(of_outputs(layer, moments.hessian, options.scale))
    steps, rows = granularity.grid(weight.shape)
    if _searched(weight.shape, rows, steps * granularity.inputs, options):
        _, losses = obs.removal_order(weight, hessian, steps, granularity.inputs, granularity.outputs)
        return obs.in_order(losses).T
    return sweep.scores(weight, hessian, sweep.root_of_inverse(hessian), granularity)


def prune(layer: Layer, granularity: Granularity, quota: Quota | None, options: Options) -> Pruned:
    """Remove what costs least, and solve for the others."""
    moments = layer.moments()
    hessian, damping = obs.damped(moments.hessian, options.damping)
    right = (hessian + moments.drift) @ layer.weight.astype(np.float64)
    best = obs.solve(hessian, right)
    scale = np.sqrt(of_outputs(layer, moments.hessian, options.scale))
    steps = _steps(best.shape, granularity, quota)
    if _searched(best.shape, granularity.grid(best.shape)[1], steps * granularity.inputs, options):
        mask = _search(best * scale, hessian, granularity, quota, steps)
        weight, how = obs.refit(hessian, right, mask), ""
    else:
        weight, mask = sweep.sweep(best * scale, sweep.root_of_inverse(hessian), granularity, quota)
        if affordable := _solve_gigaflops(mask) <= options.max_gigaflops:
            weight = obs.refit(hessian, right, mask)
        else:
            weight /= scale
        how = " They were found, and the others " + ("solved for." if affordable else "moved, in one sweep.")
    moved = weight - best
    share = 1 - np.count_nonzero(mask) / mask.size
    reason = f"The {share:.1%} of its weights that its outputs miss least went; the others make up for it."
    if silent := int(np.count_nonzero(np.diag(moments.hessian) == 0)):
        reason += f" {silent} of its {len(best)} inputs were zero in every calibration sample."
    loss = float(np.sum(moved * (moments.hessian @ moved)) / 2)
    return pruned(layer, weight, mask, reason + how, loss_increase=loss, damping=damping)


def _searched(shape: tuple[int, ...], rows: int, removed: int, options: Options) -> bool:
    """Is the exact search for `removed` weights of each of `rows` outputs affordable?"""
    return shape[0] <= options.max_fan_in and rows * shape[0] * removed**2 / 1e9 <= options.max_gigaflops


def _solve_gigaflops(mask: NDArray[np.bool_]) -> float:
    return float(np.sum(np.count_nonzero(mask, axis=0).astype(np.float64) ** 3)) / 3e9


def _steps(shape: tuple[int, ...], granularity: Granularity, quota: Quota | None) -> int:
    """How many blocks of one output the search has to remove, at most."""
    if granularity.pattern is not None:
        return granularity.removed_by_pattern(shape[0])
    along, rows = granularity.grid(shape)
    return quota.blocks // rows if quota is not None and quota.evenly else along


def _search(
    best: obs.Floats, hessian: obs.Floats, granularity: Granularity, quota: Quota | None, steps: int
) -> NDArray[np.bool_]:
    """The mask (d, r) after the exact search: what `quota` removes, from every row of blocks the first in order."""
    order, losses = obs.removal_order(
        best, hessian, steps, granularity.inputs, granularity.outputs, granularity.pattern
    )
    gone = order.size if quota is None else quota.blocks
    (stays,) = masks.by_count([obs.in_order(losses)], gone)
    along, rows = granularity.grid(best.shape)
    mask = np.ones((rows, along), bool)
    np.put_along_axis(mask, order, stays, axis=1)
    return granularity.expand(mask.T, best.shape)

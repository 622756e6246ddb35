"""Hessian: layer-wise Optimal Brain Surgeon; the weights that stay make up for those that go.

Layers are pruned in the order in which the model runs, each on the inputs x that the layers pruned before it now
give, towards the outputs x0^T W it had as trained. Of all weights those with the least error are then not W but

    W' = (H + lambda I)^-1 (H + lambda I + D) W,    H = 2/n sum x x^T,    D = 2/n sum x (x0 - x)^T

(the normal equations, lambda holding W' to W), so a layer also repairs what those before it broke. Optimal Brain
Surgeon starts at W', where the error's gradient is zero, as it needs to be.

What every layer gives is settled before the first is pruned. Their errors are compared as shares of what each
layer puts out, tr(W^T H W) / 2, which makes layers of different scales comparable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from pipeline.pruning import masks, obs
from pipeline.pruning.layer import Layer, Pruned, kept, pruned

UNIT: Literal["loss", "relative"] = "loss"
GRANULARITY: Literal["element", "unit"] = "element"
NEEDS: frozenset[str] = frozenset({"calibration"})


class Options(BaseModel):
    """Options of the method 'hessian'."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    calibration_samples: int = Field(
        512, ge=1, description="training samples whose activations make the Hessian"
    )
    damping: float = Field(
        0.01, ge=1e-6, le=1, description="added to the Hessian's diagonal, as a share of its mean"
    )
    allocation: Literal["model", "layer", "row"] = Field(
        "model",
        description="what gives up the same share: model: all layers together, each by what it loses; "
        "layer: every layer, its outputs by what they lose; row: every output of every layer",
    )
    max_fan_in: int = Field(
        1024, ge=1, description="layers with more inputs are left whole: time grows with the cube"
    )


def prune(layers: Sequence[Layer], sparsity: float, options: Options) -> Iterator[Pruned]:
    """Remove the share `sparsity` of the weights of the layers that are not too wide, and solve for the others."""
    narrow = [layer for layer in layers if len(layer.weight) <= options.max_fan_in]
    budgets = _budgets(narrow, sparsity, options)
    for layer in layers:
        if layer.name in budgets:
            yield _operate(layer, budgets[layer.name], options)
        else:
            yield kept(
                layer, f"It has {len(layer.weight)} inputs, more than max_fan_in: {options.max_fan_in}."
            )


def _budgets(layers: Sequence[Layer], sparsity: float, options: Options) -> dict[str, int]:
    """How many weights each layer loses."""
    if options.allocation == "model":
        losses = [_relative_losses(layer, options.damping) for layer in layers]
        chosen = masks.by_count(losses, masks.removals(sparsity, sum(loss.size for loss in losses)))
        return {
            layer.name: int(np.count_nonzero(~stays)) for layer, stays in zip(layers, chosen, strict=True)
        }
    if options.allocation == "layer":
        return {layer.name: masks.removals(sparsity, layer.weight.size) for layer in layers}
    return {
        layer.name: masks.removals(sparsity, len(layer.weight)) * layer.weight.shape[1] for layer in layers
    }


def _relative_losses(layer: Layer, damping: float) -> obs.Floats:
    weight, hessian = layer.weight.astype(np.float64), layer.moments().hessian
    _, losses = obs.removal_order(weight, obs.damped(hessian, damping)[0], len(weight))
    return obs.in_order(losses) / (float(np.sum(weight * (hessian @ weight))) / 2 or 1.0)


def _operate(layer: Layer, budget: int, options: Options) -> Pruned:
    moments = layer.moments()
    hessian, damping = obs.damped(moments.hessian, options.damping)
    right = (hessian + moments.drift) @ layer.weight.astype(np.float64)
    best = obs.solve(hessian, right)
    mask = _mask(best, hessian, budget, options.allocation == "row")
    weight = obs.refit(hessian, right, mask)
    moved = weight - best
    loss = float(np.sum(moved * (moments.hessian @ moved)) / 2)
    reason = f"The {budget / mask.size:.1%} of its weights that its outputs miss least went; the others make up for it."
    if silent := int(np.count_nonzero(np.diag(moments.hessian) == 0)):
        reason += f" {silent} of its {len(best)} inputs were zero in every calibration sample."
    return pruned(layer, weight, mask, reason, loss_increase=loss, damping=damping)


def _mask(best: obs.Floats, hessian: obs.Floats, budget: int, evenly: bool) -> NDArray[np.bool_]:
    """The mask (d, r) that removes `budget` weights, from every output as many or by what the outputs lose."""
    d, r = best.shape
    order, losses = obs.removal_order(best, hessian, budget // r if evenly else d)
    (stays,) = masks.by_count([obs.in_order(losses)], budget)
    mask = np.ones((r, d), bool)
    np.put_along_axis(mask, order, stays, axis=1)
    return mask.T

"""A layer as the pruning kernels see it: a matrix, and what its calibration inputs say about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.pruning.calibration import Moments
from pipeline.pruning.decision import LayerDecision

Matrix = NDArray[np.floating]
Mask = NDArray[np.bool_]


def _unknown() -> NDArray[np.float64]:
    raise ValueError("nothing is known of how the model's outputs depend on this layer")


@dataclass(frozen=True)
class Layer:
    """A kernel of the model.

    `weight` is (fan_in d, outputs r); a convolution's kernel (height, width, channels, r) flattened in that order.
    `moments()` streams the calibration inputs when it is called, through the model as it is then: weights pruned
    before have their effect on it. `sensitivity()` is (r,): what a small error of one output of the layer, squared
    and averaged over samples and positions, adds to the squared error of the model's outputs, in the model as
    trained. `shape` is the kernel's own, `weight`'s where it is left out; `positions` is how often the kernel is
    applied to one sample.
    """

    name: str
    kind: str
    weight: Matrix
    moments: Callable[[], Moments]
    sensitivity: Callable[[], NDArray[np.float64]] = _unknown
    shape: tuple[int, ...] = ()
    positions: int = 1


@dataclass(frozen=True)
class Pruned:
    """A layer's new weight and its mask (True: the weight may be other than zero), both (d, r)."""

    name: str
    weight: Matrix
    mask: Mask
    decision: LayerDecision


@dataclass(frozen=True)
class Quota:
    """How many blocks a layer loses: those of least score in all, or from every column of blocks as many."""

    blocks: int
    evenly: bool = False


def pruned(
    layer: Layer,
    weight: Matrix,
    mask: Mask,
    reason: str,
    *,
    loss_increase: float | None = None,
    damping: float | None = None,
) -> Pruned:
    """The layer with `weight` in place of its own where `mask` is True, and zeros elsewhere."""
    removed = mask.size - int(np.count_nonzero(mask))
    if removed == 0:
        return kept(layer, "The share to remove comes to none of its weights.")
    new = np.where(mask, weight, 0).astype(layer.weight.dtype)
    decision = LayerDecision(
        layer=layer.name,
        kind=layer.kind,
        action="pruned",
        reason=reason if removed < mask.size else f"{reason} Nothing is left of it.",
        weights_before=int(np.count_nonzero(layer.weight)),
        weights_after=int(np.count_nonzero(new)),
        loss_increase=loss_increase,
        damping=damping,
    )
    return Pruned(layer.name, new, mask, decision)


def kept(layer: Layer, reason: str) -> Pruned:
    """The layer as it is."""
    weights = int(np.count_nonzero(layer.weight))
    decision = LayerDecision(
        layer=layer.name,
        kind=layer.kind,
        action="kept",
        reason=reason,
        weights_before=weights,
        weights_after=weights,
    )
    return Pruned(layer.name, layer.weight, np.ones(layer.weight.shape, bool), decision)

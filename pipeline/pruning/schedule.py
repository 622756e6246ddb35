"""Gradual magnitude pruning (Zhu & Gupta 2017, "To prune, or not to prune"): how much is gone after each step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

# Of all steps, the share in which weights go; in the rest those that stay settle.
RAMP = 0.75
# How often in that time the masks are made anew, at most.
REMOVALS = 50


def gradual_sparsity(step: int, end: int, final: float, initial: float = 0.0) -> float:
    """s(t) = s_f + (s_i - s_f) (1 - t/T)^3 after `step` t of `end` T, and s_f from there on (their equation 1)."""
    return final + (initial - final) * (1 - min(step, end) / end) ** 3


def gradual_mask(kernel: NDArray[np.floating], mask: Mask, removed: int) -> Mask:
    """The mask, True where a weight stays, that lacks the `removed` smallest weights by magnitude.

    What `mask` lacks is gone first, so masks are nested. Of equal weights the earlier goes first.
    """
    order = np.argsort(np.where(mask, np.abs(kernel), -1.0), axis=None, kind="stable")
    stays = np.ones(kernel.size, bool)
    stays[order[: max(removed, mask.size - int(np.count_nonzero(mask)))]] = False
    return stays.reshape(kernel.shape)


@dataclass(frozen=True)
class Gradual:
    """The course of a training of `steps` steps towards as many weights of each layer as `removed` says."""

    steps: int
    removed: Mapping[str, int]

    @property
    def end(self) -> int:
        """The step T, from which on nothing more is removed."""
        return max(1, math.ceil(RAMP * self.steps))

    def removes_after(self, step: int) -> bool:
        """Are the masks made anew after this step, counted from 1?"""
        every = math.ceil(self.end / REMOVALS)
        return step == self.end or (step < self.end and step % every == 0)

    def count(self, name: str, step: int) -> int:
        """How many weights the layer lacks after this step."""
        return round(gradual_sparsity(step, self.end, self.removed[name]))

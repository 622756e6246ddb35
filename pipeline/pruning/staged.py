"""Optimal Brain Surgeon over all weights of a model at once, in stages.

The distance of the outputs to those of the dense model is nearly quadratic near the weights w, with the Gauss-Newton
matrix H as its Hessian. Stage by stage, each linearised anew:

    w* = w - (H + lambda I)^-1 g           where the quadratic model is least
    remove the q of least w*_q^2 / (2 [(H + lambda I)^-1]_qq), moving all others, one after another

(Hassibi & Stork 1993), then a Gauss-Newton refit of what stays. H takes the square of the number of weights, so while
they are many it is replaced by its blocks of one output unit each: all weights are ranked at once, and each unit's
others make up for those that go.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, lapack

from pipeline.pruning import gauss_newton, linearised, masks
from pipeline.pruning.gauss_newton import Network
from pipeline.pruning.linearised import Masks, Matrices

Array = NDArray[Any]

# How much of the weights a stage leaves: of blocks, and of the full matrix.
_BLOCK_RATIO, _FULL_RATIO = 0.6, 0.8
# The inverse is brought up to date in products of matrices, this many removals at a time.
_LAZY = 64
_MOST_BLOCK_BYTES = 2 << 30
# There are many blocks: float32 is enough for those with more weights than this.
_SMALL = 64


@dataclass(frozen=True)
class Stage:
    """A point of the path: the weights and their masks (True stays), and the distance to the dense model's outputs.

    `distances` are the mean distance over the calibration inputs right after the removals, and after each refit step.
    """

    weights: list[Array]
    masks: list[NDArray[np.bool_]]
    distances: list[float]

    @property
    def kept(self) -> int:
        """The removable weights that stay and those that never could go."""
        return sum(int(np.count_nonzero(mask)) for mask in self.masks)


def stages(
    network: Network,
    weights: Matrices,
    removable: Masks,
    targets: Sequence[int],
    *,
    damping: float = gauss_newton.DAMPING,
    direct: int = gauss_newton.DIRECT,
    steps: int = 4,
    progress: Callable[[str], None] = lambda line: None,
) -> Iterator[Stage]:
    """One path from the dense `weights`; yields a `Stage` for each of `targets`, which fall.

    A target is how many of the weights at which `removable` is True stay; the others (biases) are refitted only.
    Up to `direct` free weights the full matrix is used, above its blocks. `steps` are the refit's at a target.
    Memory: that of `gauss_newton.refit`, and 2 GiB at most for the blocks.
    """
    total = sum(int(np.count_nonzero(mask)) for mask in removable)
    _check(targets, total)
    fixed = sum(mask.size for mask in removable) - total
    current, free = [weight.copy() for weight in weights], [np.ones(mask.shape, bool) for mask in removable]
    kept = total
    for target in targets:
        distances: list[float] = []
        while kept > target:
            blocks = kept + fixed > direct
            following = _next(kept, target, _BLOCK_RATIO if blocks else _FULL_RATIO)
            surgeon = _by_blocks if blocks else _by_full_matrix
            current, free = surgeon(network, current, free, removable, kept - following, damping)
            kept = following
            # Between stages of blocks a refit gains less than it takes: little has been lost yet.
            more = steps if kept == target else 0 if blocks else 1
            found = gauss_newton.refit(network, current, free, steps=more, damping=damping, direct=direct)
            current, distances = found.weights, found.distances
            progress(f"{kept} of {total} weights stay, distance {distances[-1]:.3g}")
        yield Stage([matrix.copy() for matrix in current], [mask.copy() for mask in free], distances)


def _check(targets: Sequence[int], total: int) -> None:
    falling = all(later < earlier for earlier, later in itertools.pairwise(targets))
    if not targets or not falling or not 0 < targets[-1] <= targets[0] <= total:
        raise ValueError(
            f"expected falling numbers of weights to keep, from 1 to the {total} that can go, received {list(targets)}"
        )


def _next(kept: int, target: int, ratio: float) -> int:
    """What the next stage leaves of `kept` weights, on the way to `target` in stages of one ratio, `ratio` or more."""
    count = max(1, math.ceil(math.log(kept / target) / -math.log(ratio)))
    following = round(kept * math.pow(target / kept, 1 / count))
    return max(target, min(kept - 1, following))


def _by_full_matrix(
    network: Network, weights: Matrices, free: Masks, removable: Masks, removed: int, damping: float
) -> tuple[list[Array], list[NDArray[np.bool_]]]:
    """The weights and masks after `removed` removals one by one, with H over all free weights."""
    hessian, gradient = linearised.normal_equations(network.linearise(weights), free)
    inverse = _inverse(hessian, damping * float(np.mean(np.diag(hessian))))
    best = linearised.gather(weights, free) - inverse @ gradient.astype(inverse.dtype)
    stays, moved = eliminate(best, inverse, removed, linearised.gather(removable, free))
    left = linearised.scatter(stays, free)
    return linearised.scatter(moved.astype(np.float32), free), left


def _by_blocks(
    network: Network, weights: Matrices, free: Masks, removable: Masks, removed: int, damping: float
) -> tuple[list[Array], list[NDArray[np.bool_]]]:
    """The weights and masks after `removed` removals at once, with the blocks of H of one output unit each."""
    units = list(linearised.units(free))
    if (size := sum(4 * len(unit.rows) ** 2 for unit in units)) > _MOST_BLOCK_BYTES:
        raise ValueError(
            f"expected layers whose blocks of the Hessian take {_MOST_BLOCK_BYTES >> 30} GiB at most, these take "
            f"{size / 2**30:.1f}; prune the model layer by layer instead"
        )
    blocks = linearised.unit_blocks(network.linearise(weights), units)
    scale = damping * float(np.mean(np.concatenate([np.diag(block) for block in blocks])))
    vector, may_go = linearised.gather(weights, free).astype(np.float64), linearised.gather(removable, free)
    losses = np.full(len(vector), np.inf)
    for unit, block in zip(units, blocks, strict=True):
        losses[unit.place] = vector[unit.place] ** 2 / (2 * _inverse_diagonal(block, scale))
    (stays,) = masks.by_count([np.where(may_go, losses, np.inf)], removed)
    for unit, block in zip(units, blocks, strict=True):
        vector[unit.place] = _on_support(block, vector[unit.place], stays[unit.place], scale)
    return linearised.scatter(vector.astype(np.float32), free), linearised.scatter(stays, free)


def _on_support(hessian: Array, w: Array, stays: NDArray[np.bool_], damping: float) -> Array:
    """The joint update of Optimal Brain Surgeon: of the w' that are zero where `stays` is False, the one for which
    (w' - w)^T (H + lambda I) (w' - w) is least.
    """
    moved = np.where(stays, w, 0)
    if stays.any() and not stays.all():
        factor, _ = gauss_newton.factorised(hessian[np.ix_(stays, stays)], damping, most_double=_SMALL)
        moved[stays] += cho_solve((factor, True), hessian[np.ix_(stays, ~stays)] @ w[~stays])
    return np.asarray(moved)


def _inverse_diagonal(hessian: Array, damping: float) -> Array:
    """The diagonal of (H + lambda I)^-1 = L^-T L^-1: the squares of L^-1, summed over its columns."""
    factor, _ = gauss_newton.factorised(hessian, damping, most_double=_SMALL)
    trtri = lapack.dtrtri if factor.dtype == np.float64 else lapack.strtri
    inverse, _ = trtri(factor, lower=True, overwrite_c=True)
    squares: Array = np.tril(inverse) ** 2
    return np.asarray(squares.sum(axis=0, dtype=np.float64))


def _inverse(hessian: Array, damping: float) -> Array:
    """(H + lambda I)^-1 by its Cholesky factor, whole (both triangles)."""
    factor, _ = gauss_newton.factorised(hessian, damping)
    potri = lapack.dpotri if factor.dtype == np.float64 else lapack.spotri
    inverse, _ = potri(factor, lower=True, overwrite_c=True)
    lower: Array = np.tril(inverse)
    return lower + np.tril(lower, -1).T


def eliminate(
    w: Array, inverse: Array, removed: int, may_go: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], Array]:
    """Remove `removed` of the weights `w` (p,) one after another, always the one of least loss, moving the others.

    `inverse` (p, p), of the Hessian, is overwritten. Returns which stay, and the weights.
    """
    w, open_, stays = w.astype(np.float64), may_go.copy(), np.ones(len(w), bool)
    diagonal = np.diag(inverse).astype(np.float64)
    pending = np.empty((min(_LAZY, max(removed, 1)), len(w)), inverse.dtype)
    waiting = 0
    for _ in range(removed):
        losses = np.divide(w**2, diagonal, out=np.full(len(w), np.inf), where=open_ & (diagonal > 0))
        q = int(losses.argmin())
        column = inverse[q] - pending[:waiting, q] @ pending[:waiting]
        pivot = np.sqrt(max(float(column[q]), np.finfo(column.dtype).tiny))
        pending[waiting] = column / pivot
        w -= w[q] / pivot * pending[waiting]
        diagonal -= pending[waiting].astype(np.float64) ** 2
        open_[q] = stays[q] = False
        waiting += 1
        if waiting == len(pending):
            inverse -= pending.T @ pending
            waiting = 0
    return stays, np.where(stays, w, 0)

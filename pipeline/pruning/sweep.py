"""Optimal Brain Surgeon for wide layers: one sweep over the inputs of a layer in place of a search for each output.

With the upper triangular U of H^-1 = U^T U, the inverse of H without its first i inputs is U[i:, i:]^T U[i:, i:].
The sweep takes the inputs in their order. When it comes to input i, those before it are settled, so removing it from
the output j costs, and moves the weights after it, by

    loss       w_ij^2 / (2 U_ii^2)
    w_:j[i:]  -= w_ij / U_ii  U[i, i:]

(Frantar & Alistarh 2023, SparseGPT.) U is the same for every output: d^3 for U once and d^2 r for the sweep, against
d^3 r for the exact search. Which weights go is settled for some inputs at a time, from what each would then cost alone,
w_ij^2 / 2[H^-1]_ii with H without the inputs before; how many of these inputs, from the same at the outset.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from scipy.linalg import cholesky, solve_triangular

from pipeline.pruning import masks
from pipeline.pruning.granularity import Granularity
from pipeline.pruning.layer import Quota
from pipeline.pruning.obs import Floats

# So many inputs are settled at a time.
_SPAN = 16
# The shares of blocks removed at which the loss is found; in between it is interpolated.
_SHARES = (0.25, 0.5, 0.65, 0.8, 0.9, 0.95)


def root_of_inverse(hessian: Floats) -> Floats:
    """The upper triangular U of H^-1 = U^T U, from the Cholesky factor of H with its inputs in reverse order."""
    lower = cholesky(hessian[::-1, ::-1], lower=True)
    root: Floats = solve_triangular(lower[::-1, ::-1], np.eye(len(hessian)), lower=False)
    return root


def sweep(
    weight: Floats, root: Floats, granularity: Granularity, quota: Quota | None
) -> tuple[Floats, NDArray[np.bool_]]:
    """The weights (d, r) after the sweep, and their mask: `quota`, or the granularity's pattern, is removed exactly."""
    w = weight.copy()
    mask = np.ones(w.shape, bool)
    step = granularity.pattern[1] if granularity.pattern else granularity.inputs
    span = max(_SPAN // step, 1) * step
    alone = (
        None if quota is None else masks.by_quota(_alone(w, root, granularity), w.shape, granularity, quota)
    )
    for start in range(0, len(w), span):
        part = slice(start, start + span)
        if granularity.pattern is None and alone is not None and quota is not None:
            mask[part] = _mask(w[part], root[part, part], granularity, alone[part], quota.evenly)
        moved = np.empty(w[part].shape)
        for i in range(start, min(start + span, len(w))):
            if granularity.pattern is not None and i % step == 0:
                group = slice(i, i + step)
                costs = (w[group] / np.diag(root)[group, None]) ** 2
                mask[group] = masks.by_pattern(costs, *granularity.pattern)
            moved[i - start] = np.where(mask[i], 0, w[i]) / root[i, i]
            w[i : part.stop] -= np.outer(root[i, i : part.stop], moved[i - start])
        w[part.stop :] -= root[part, part.stop :].T @ moved
    return np.where(mask, w, 0), mask


def scores(weight: Floats, hessian: Floats, root: Floats, granularity: Granularity) -> Floats:
    """What one block after another adds to the layer's loss, by sweeps at some shares; shaped as the grid.

    Only the values mean something, not where they stand. `hessian` is the one that `root` is of.
    """
    grid = granularity.grid(weight.shape)
    size = grid[0] * grid[1]
    removed, losses = [0], [0.0]
    for share in _SHARES:
        count = masks.removals(share, size)
        if removed[-1] < count < size:
            removed.append(count)
            losses.append(_loss(weight - sweep(weight, root, granularity, Quota(count))[0], hessian))
    whole = _loss(weight, hessian)
    curve = PchipInterpolator([*removed, size], np.minimum(np.maximum.accumulate([*losses, whole]), whole))
    each: Floats = np.maximum.accumulate(np.diff(curve(np.arange(size + 1))))
    return each.reshape(grid)


def _loss(moved: Floats, hessian: Floats) -> float:
    return float(np.sum(moved * (hessian @ moved)) / 2)


def _alone(w: Floats, root: Floats, granularity: Granularity) -> Floats:
    """What each block would cost alone, shaped as the grid: w_B^T ([H^-1]_BB)^-1 w_B / 2."""
    b = granularity.inputs
    if b == 1:
        return granularity.fold(w**2 / (2 * np.sum(root**2, axis=0)[:, None]))
    grid = granularity.grid(w.shape)
    costs = np.empty((grid[0], w.shape[1]))
    for block, start in enumerate(range(0, len(w), b)):
        part, own = w[start : start + b], root[:, start : start + b]
        costs[block] = np.sum(part * np.linalg.solve(own.T @ own, part), axis=0) / 2
    return costs


def _mask(
    w: Floats, root: Floats, granularity: Granularity, alone: NDArray[np.bool_], evenly: bool
) -> NDArray[np.bool_]:
    """The mask of some inputs that removes as many blocks of them as `alone` does, from each column where `evenly`."""
    b, costs = granularity.inputs, _alone(w, root, granularity)
    gone = ~alone[::b, :: granularity.outputs]
    if evenly:
        mask = masks.by_column(costs, np.count_nonzero(gone, axis=0))
    else:
        (mask,) = masks.by_count([costs], int(np.count_nonzero(gone)))
    return granularity.expand(mask, w.shape)

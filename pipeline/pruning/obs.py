"""Optimal Brain Surgeon on one layer: which weights to remove, and what the others become.

The error of one output of the layer, sum over samples of (x^T w - y)^2 / n, is exactly quadratic in its weights w,
with H = 2/n sum x x^T for every output alike. Removing weight q costs least, and moves the others, by

    loss  w_q^2 / (2 [H^-1]_qq)
    w    -= w_q / [H^-1]_qq  H^-1 e_q
    H^-1 -= H^-1 e_q e_q^T H^-1 / [H^-1]_qq        (Gaussian elimination of q)

(Hassibi & Stork 1993; layer by layer: Dong et al. 2017; row by row: Frantar & Alistarh 2022, ExactOBS.)

Eliminating one q after another is a Cholesky factorisation of H^-1 whose pivots the losses choose: with
u_k = H_k^-1 e_q / sqrt([H_k^-1]_qq) the matrix after k removals is H^-1 - sum u u^T. Only its diagonal and its
column q are ever needed, at d k products in place of the d^2 of updating the matrix.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from threadpoolctl import threadpool_limits

Floats = NDArray[np.float64]

# The factors of a block of outputs stay in the processor's cache.
_BLOCK_BYTES = 8 * 2**20


def damped(hessian: Floats, damping: float) -> tuple[Floats, float]:
    """H + lambda I, positive definite, and its lambda: `damping` times the mean of H's diagonal, or times ten.

    An input that is always zero then has the curvature lambda; lambda is `damping` where all inputs are zero.
    """
    strength = damping * (float(np.mean(np.diag(hessian))) or 1.0)
    while True:
        regular = hessian + strength * np.eye(len(hessian))
        try:
            cho_factor(regular)
        except LinAlgError:
            strength *= 10
        else:
            return regular, strength


def solve(hessian: Floats, right: Floats) -> Floats:
    """H^-1 `right`, for a positive definite H (d, d) and a right side (d, r)."""
    solution: Floats = cho_solve(cho_factor(hessian), right)
    return solution


def refit(hessian: Floats, right: Floats, mask: NDArray[np.bool_]) -> Floats:
    """The weights (d, r) of least error that are zero off the support S, each column's `mask`: H_SS w_S = right_S.

    With `right` = H w the same weights as the updates of w lead to, without their rounding.
    """
    weight = np.zeros(right.shape)
    for column, support in enumerate(mask.T):
        if support.any():
            weight[support, column] = solve(hessian[np.ix_(support, support)], right[support, column])
    return weight


def removal_order(weight: Floats, hessian: Floats, steps: int) -> tuple[NDArray[np.intp], Floats]:
    """Remove `steps` weights of every column of `weight` (d, r), always the one of least loss.

    Returns the indexes in order and the loss each adds, both (r, steps).
    """
    d, r = weight.shape
    inverse = solve(hessian, np.eye(d))
    order, losses = np.empty((r, steps), np.intp), np.empty((r, steps))
    block = max(1, _BLOCK_BYTES // (8 * d * max(steps, 1)))

    def run(start: int) -> None:
        outputs = slice(start, start + block)
        order[outputs], losses[outputs] = _eliminate(weight.T[outputs].copy(), inverse, steps)

    # A block's products are too small for BLAS to divide among threads; the blocks are not.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(run, range(0, r, block)))
    return order, losses


def in_order(losses: Floats) -> Floats:
    """`removal_order`'s losses (r, steps), comparable over rows: the lowest of all are each row's first steps.

    A budget goes step by step to the row whose next removal costs least. A removal that costs less than one before
    it, which can happen, is next once that one is paid for: hence the running maximum.
    """
    running: Floats = np.maximum.accumulate(losses, axis=1)
    return running


def _eliminate(w: Floats, inverse: Floats, steps: int) -> tuple[NDArray[np.intp], Floats]:
    """`removal_order` for the weights `w` (outputs, d), which it overwrites."""
    outputs, d = w.shape
    each = np.arange(outputs)
    diagonal = np.tile(np.diag(inverse), (outputs, 1))
    alive = np.ones((outputs, d), bool)
    factor = np.empty((outputs, steps, d))
    order, losses = np.empty((outputs, steps), np.intp), np.empty((outputs, steps))
    for k in range(steps):
        q = np.divide(w**2, diagonal, out=np.full(w.shape, np.inf), where=alive).argmin(axis=1)
        column = inverse[q] - (factor[each, :k, q][:, None] @ factor[:, :k])[:, 0]
        pivot = np.sqrt(column[each, q])
        u, c = column / pivot[:, None], w[each, q] / pivot
        w -= c[:, None] * u
        diagonal -= u**2
        alive[each, q] = False
        factor[:, k], order[:, k], losses[:, k] = u, q, c**2 / 2
    return order, losses

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

A block B of weights goes at once, at the loss w_B^T ([H^-1]_BB)^-1 w_B / 2: the sum of what its weights cost one after
another. Outputs that lose the same inputs together share H^-1 and its factor; their losses add up.
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


def removal_order(
    weight: Floats,
    hessian: Floats,
    steps: int,
    inputs: int = 1,
    outputs: int = 1,
    pattern: tuple[int, int] | None = None,
) -> tuple[NDArray[np.intp], Floats]:
    """Remove `steps` blocks of `inputs` weights from every `outputs` columns of `weight` (d, r), always that of least
    loss; with a `pattern` (n, m) never one of m consecutive inputs of which n are left.

    Returns the indexes of the blocks in order and the loss each adds, both (r / outputs, steps), r rounded up.
    """
    d, r = weight.shape
    # What an incomplete block lacks are weights of zero, whose inputs have to do with no other.
    wide, rows = -(-d // inputs) * inputs, -(-r // outputs)
    padded = np.zeros((rows * outputs, wide))
    padded[:r, :d] = weight.T
    padded = padded.reshape(rows, outputs, wide)
    inverse = np.eye(wide)
    inverse[:d, :d] = solve(hessian, np.eye(d))
    order, losses = np.empty((rows, steps), np.intp), np.empty((rows, steps))
    together = max(1, _BLOCK_BYTES // (8 * wide * max(steps * inputs, 1)))

    def run(start: int) -> None:
        part = slice(start, start + together)
        order[part], losses[part] = _eliminate(padded[part].copy(), inverse, steps, inputs, pattern)

    # A block's products are too small for BLAS to divide among threads; the blocks are not.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(run, range(0, rows, together)))
    return order, losses


def in_order(losses: Floats) -> Floats:
    """`removal_order`'s losses (r, steps), comparable over rows: the lowest of all are each row's first steps.

    A budget goes step by step to the row whose next removal costs least. A removal that costs less than one before
    it, which can happen, is next once that one is paid for: hence the running maximum.
    """
    running: Floats = np.maximum.accumulate(losses, axis=1)
    return running


def _eliminate(
    w: Floats, inverse: Floats, steps: int, inputs: int, pattern: tuple[int, int] | None
) -> tuple[NDArray[np.intp], Floats]:
    """`removal_order` for the weights `w` (rows, outputs, d), which it overwrites."""
    rows, _, d = w.shape
    each = np.arange(rows)
    free = np.ones((rows, d // inputs), bool)
    keep, of = pattern or (0, d)
    spare = np.tile([max(min(of, d - start) - keep, 0) for start in range(0, d, of)], (rows, 1))
    free &= np.repeat(spare > 0, of, axis=1)[:, :d] if pattern else free
    factor = np.empty((rows, steps * inputs, d))
    order, losses = np.empty((rows, steps), np.intp), np.zeros((rows, steps))
    # The blocks on the diagonal of each row's inverse: of what is removed, the identity.
    at = np.arange(d).reshape(-1, inputs)
    diagonal = np.tile(inverse[at[:, :, None], at[:, None, :]], (rows, 1, 1, 1))
    for k in range(steps):
        chosen = np.where(free, _block_losses(w, diagonal), np.inf).argmin(axis=1)
        for q in (chosen * inputs + offset for offset in range(inputs)):
            done = k * inputs + int(q[0] % inputs)
            column = inverse[q] - (factor[each, :done, q][:, None] @ factor[:, :done])[:, 0]
            pivot = np.sqrt(column[each, q])
            u, c = column / pivot[:, None], w[each, :, q] / pivot[:, None]
            w -= c[:, :, None] * u[:, None, :]
            blocks = u.reshape(rows, -1, inputs)
            diagonal -= blocks[..., :, None] * blocks[..., None, :]
            factor[:, done] = u
            losses[:, k] += np.sum(c**2, axis=1) / 2
        order[:, k] = chosen
        free[each, chosen] = False
        diagonal[each, chosen] = np.eye(inputs)
        if pattern:
            spare[each, chosen // of] -= 1
            free &= np.repeat(spare > 0, of, axis=1)[:, :d]
    return order, losses


def _block_losses(w: Floats, diagonal: Floats) -> Floats:
    """w_B^T ([H^-1]_BB)^-1 w_B, summed over outputs: `w` (rows, outputs, d), `diagonal` (rows, blocks, b, b)."""
    rows, outputs, _ = w.shape
    inputs = diagonal.shape[-1]
    if inputs == 1:
        squares: Floats = np.sum(w**2, axis=1) if outputs > 1 else w[:, 0] ** 2
        return squares / diagonal[..., 0, 0]
    blocks = w.reshape(rows, outputs, -1, inputs).transpose(0, 2, 3, 1)
    found: Floats = np.sum(blocks * np.linalg.solve(diagonal, blocks), axis=(2, 3))
    return found

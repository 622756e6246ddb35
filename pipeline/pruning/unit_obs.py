"""Optimal Brain Surgeon on whole units: which inputs of the layers they feed are missed least.

A unit u feeds rows R of a consumer's kernel W (d, r): one after a Dense layer, one a position after a Flatten. Without
it the consumer's error, sum over samples of |W^T x - y|^2 / n with H = 2/n sum x x^T, grows by at least

    loss  tr(W_R^T ([H^-1]_RR)^-1 W_R) / 2
    W    -= H^-1_:R ([H^-1]_RR)^-1 W_R
    H^-1 -= H^-1_:R ([H^-1]_RR)^-1 H^-1_R:

(Hassibi & Stork 1993, in groups of rows: Frantar & Alistarh 2022). Where a unit feeds several consumers their losses
add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from pipeline.pruning.obs import Floats, solve

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Fed:
    """A layer that units feed: `weight` (d, r), `hessian` (d, d) positive definite, each unit's `rows` (units, k)."""

    weight: Floats
    hessian: Floats
    rows: Rows


def removal_order(consumers: Sequence[Fed], steps: int) -> tuple[NDArray[np.intp], Floats]:
    """Remove `steps` units, always the one of least loss: their numbers in order and the loss each adds, (steps,).

    After each removal the other weights of every consumer are those of least error, so that a later unit is judged
    with what the earlier ones left to it.
    """
    work = [_Work(consumer) for consumer in consumers]
    alive = np.ones(len(consumers[0].rows), bool)
    order, losses = np.empty(steps, np.intp), np.empty(steps)
    for step in range(steps):
        loss = np.sum([each.losses() for each in work], axis=0)
        unit = int(np.where(alive, loss, np.inf).argmin())
        for each in work:
            each.remove(unit)
        alive[unit] = False
        order[step], losses[step] = unit, loss[unit]
    return order, losses


class _Work:
    """One consumer's weights and inverse, as the removals change them."""

    def __init__(self, fed: Fed) -> None:
        self.weight = fed.weight.astype(np.float64)
        self.inverse = solve(fed.hessian, np.eye(len(fed.hessian)))
        self.rows = fed.rows

    def losses(self) -> Floats:
        """The loss (units,) of removing each unit now; without meaning for those removed."""
        rows = self.rows
        if rows.shape[1] == 1:
            flat = rows[:, 0]
            squares = np.einsum("ur,ur->u", self.weight[flat], self.weight[flat])
            curvature = self.inverse[flat, flat]
            result: Floats = np.divide(squares, 2 * curvature, out=np.zeros(len(flat)), where=curvature > 0)
            return result
        return np.array([self._loss(unit) for unit in rows])

    def _loss(self, unit: Rows) -> float:
        block = self.inverse[np.ix_(unit, unit)]
        if not block.any():
            return 0.0
        half = solve_triangular(np.linalg.cholesky(block), self.weight[unit], lower=True)
        return float(np.sum(half**2) / 2)

    def remove(self, unit: int) -> None:
        rows = self.rows[unit]
        columns = self.inverse[:, rows].copy()
        factor = cho_factor(columns[rows])
        self.weight -= columns @ cho_solve(factor, self.weight[rows])
        self.inverse -= columns @ cho_solve(factor, columns.T)
        # What is zero in exact arithmetic is set so: rounding must not bring a removed unit back.
        self.weight[rows], self.inverse[rows], self.inverse[:, rows] = 0, 0, 0

"""Gauss-Newton refit: the weights that stay, solved for the dense model's outputs. No labels, no gradient descent.

With the outputs linearised in all free weights at once, the step that brings the model closest to the dense one is

    (H + lambda D) step = -g,    H = 1/n sum J^T R R^T J,    g the gradient of the mean distance

(Levenberg 1944, Marquardt 1963). A step is taken only if the distance over the calibration inputs really falls; lambda
grows until it does, and shrinks after each success. With the squared distance and a linear model one step, undamped,
is least squares.

H is factorised (Cholesky) while the free weights are few, else the system is solved by conjugate gradients on products
with H, preconditioned by the Cholesky factors of the blocks of H that belong to one output unit, or to a part of it
where they would take too much memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from pipeline.pruning import linearised
from pipeline.pruning.linearised import Linearised, Masks, Matrices

Array = NDArray[Any]
Solver = Callable[[float], Array]

# What lambda starts at, as a share of the mean diagonal of H, and the least and the most it becomes.
DAMPING, LEAST_DAMPING, MOST_DAMPING = 1e-3, 1e-6, 1e3
# H, its inverse and what they are made of take 1 GB at most.
DIRECT = 8_000
# 256 MiB of float32 for the blocks of the preconditioner, and as much for their factors.
_BLOCK_ELEMENTS = 1 << 26
# Above, float64 factors would take too long; their damping is far above float32's rounding.
_DOUBLE = 4_000


class Network(Protocol):
    """A model, its calibration inputs, and the distance of its outputs to those of the dense model."""

    def distance(self, weights: Matrices) -> float:
        """The mean over the calibration inputs, with these weights (one matrix a layer)."""

    def linearise(self, weights: Matrices) -> Iterable[Linearised]:
        """The calibration inputs, a batch at a time, through the model with these weights."""

    def product(self, weights: Matrices, direction: Matrices) -> Matrices:
        """H of all the weights, none held at zero, times a direction: one matrix a layer, as they are."""


@dataclass(frozen=True)
class Refit:
    """The weights, and the mean distance before and after each step that was taken."""

    weights: list[Array]
    distances: list[float]


def refit(
    network: Network,
    weights: Matrices,
    masks: Masks,
    *,
    steps: int = 4,
    damping: float = DAMPING,
    tolerance: float = 1e-2,
    direct: int = DIRECT,
) -> Refit:
    """At most `steps` steps from `weights`, whose elements are free where `masks` are True and zero elsewhere.

    Ends where a step gains less than the share `tolerance` of the distance, or none gains anything. Up to `direct`
    free weights H is formed; above, a step takes up to 60 products with H. Memory, however many calibration inputs
    there are: that of a batch, and 1 GB up to `direct`, or 512 MiB and some vectors of the free weights.
    """
    current = [np.where(mask, weight, 0) for weight, mask in zip(weights, masks, strict=True)]
    distances = [network.distance(current)]
    for _ in range(steps):
        found = _improve(network, current, masks, distances[-1], damping, direct)
        if found is None:
            break
        current, distance, damping = found
        distances.append(distance)
        if distances[-2] - distance < tolerance * distances[-2]:
            break
    return Refit(current, distances)


def _improve(
    network: Network, weights: list[Array], masks: Masks, before: float, damping: float, direct: int
) -> tuple[list[Array], float, float] | None:
    """The weights after a step that lowers the distance, that distance, and the next damping; None if there is none."""
    start = linearised.gather(weights, masks)
    if not len(start):
        return None
    formed = len(start) <= direct
    solver = (_by_cholesky if formed else _by_gradients)(network, weights, masks)
    while damping <= MOST_DAMPING:
        moved = linearised.scatter(start + solver(damping).astype(start.dtype), masks)
        distance = network.distance(moved)
        if distance < before:
            return moved, distance, max(damping / 3, LEAST_DAMPING)
        damping *= 10
    return None


def _by_cholesky(network: Network, weights: Matrices, masks: Masks) -> Solver:
    hessian, gradient = linearised.normal_equations(network.linearise(weights), masks)
    scale = float(np.mean(np.diag(hessian))) or 1.0

    def step(damping: float) -> Array:
        factor, _ = factorised(hessian, damping * scale)
        solved: Array = -cho_solve((factor, True), gradient.astype(factor.dtype), check_finite=False)
        return solved

    return step


def factorised(hessian: Array, damping: float, most_double: int = _DOUBLE) -> tuple[Array, float]:
    """The lower Cholesky factor of H + lambda I, and its lambda: `damping`, times ten until there is a factor.

    In float64 up to a size of `most_double`, above in float32. Raises `ValueError` where H is not finite.
    """
    if not np.isfinite(hessian).all():
        raise ValueError(
            "expected finite activations and slopes on the calibration samples, received NaN or infinity"
        )
    while True:
        regular = np.array(hessian, np.float64 if len(hessian) <= most_double else np.float32, order="F")
        np.fill_diagonal(regular, np.diag(hessian) + damping)
        try:
            factor, _ = cho_factor(regular, lower=True, overwrite_a=True, check_finite=False)
        except LinAlgError:
            damping = 10 * damping or 1.0
        else:
            return factor, damping


def _by_gradients(network: Network, weights: Matrices, masks: Masks) -> Solver:
    free = sum(int(np.count_nonzero(mask)) for mask in masks)
    every = list(linearised.units(masks, most=max(1, _BLOCK_ELEMENTS // free)))
    blocks, gradient = linearised.block_equations(network.linearise(weights), masks, every)
    scale = float(np.mean(np.concatenate([np.diag(block) for block in blocks]))) or 1.0

    def step(damping: float) -> Array:
        factors = [factorised(block, damping * scale, most_double=0)[0] for block in blocks]

        def product(vector: Array) -> Array:
            image = network.product(weights, linearised.scatter(vector, masks))
            return linearised.gather(image, masks) + damping * scale * vector

        def precondition(residual: Array) -> Array:
            pieces = (
                cho_solve((factor, True), residual[unit.place].astype(factor.dtype), check_finite=False)
                for unit, factor in zip(every, factors, strict=True)
            )
            return np.concatenate(list(pieces))

        return conjugate_gradients(product, -gradient, precondition)

    return step


def conjugate_gradients(
    product: Callable[[Array], Array],
    right: Array,
    precondition: Callable[[Array], Array],
    *,
    tolerance: float = 1e-3,
    iterations: int = 60,
) -> Array:
    """x of A x = `right`, A positive definite and known by `product`, to a residual of `tolerance` times the first.

    `precondition` is the product with a matrix close to A^-1 (Hestenes & Stiefel 1952).
    """
    x = np.zeros_like(right)
    residual = right.copy()
    enough = tolerance * np.linalg.norm(right)
    z = precondition(residual)
    direction, descent = z, residual @ z
    for _ in range(iterations):
        if np.linalg.norm(residual) <= enough:
            break
        image = product(direction)
        length = descent / (direction @ image)
        x += length * direction
        residual -= length * image
        z = precondition(residual)
        descent, before = residual @ z, descent
        direction = z + descent / before * direction
    return x

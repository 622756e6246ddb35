"""The Dense layers that a model ends with, its head, moved together towards the outputs of the unpruned model.

Layer l takes x_l, with a one appended for its biases, to a_l = W_l^T x_l, and gives x_(l+1) = s(a_l). The outputs are
the last a_l, and their distance to a target t is measured at 1/T of both, T the temperature: above 1, what the unpruned
model tells of the classes that it does not choose counts for more (Hinton et al. 2015). Each Gauss-Newton step solves

    (H + lambda I) step = -g,    H = 1/n sum J^T R R^T J

by conjugate gradients, on products with H that cost two passes through the head, preconditioned by the blocks

    E[x x^T] (x) diag(s) + lambda I,    s_j = E[ |R^T df/da_j|^2 ]

(the Kronecker factors of Martens & Grosse 2015). All of it is matrices of samples by units: no other model is as cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.pruning import distance as distances
from pipeline.pruning.distance import Distance
from pipeline.pruning.gauss_newton import DAMPING, LEAST_DAMPING, MOST_DAMPING, conjugate_gradients

Array = NDArray[np.floating]
Activation = tuple[Callable[[Array], Array], Callable[[Array], Array]]

# Each activation, and its derivative where it gives the argument.
ACTIVATIONS: Mapping[str, Activation] = {
    "linear": (lambda a: a, np.ones_like),
    "relu": (lambda a: np.maximum(a, 0), lambda x: (x > 0).astype(x.dtype)),
    "tanh": (np.tanh, lambda x: 1 - x**2),
    "sigmoid": (lambda a: 1 / (1 + np.exp(-a)), lambda x: x * (1 - x)),
}
_ITERATIONS = 12
# So many samples, at the most, make the preconditioner; it need not be exact.
_PRECONDITIONING = 8192
# More outputs than this are combined at random for it.
_PROBES = 32


@dataclass(frozen=True)
class Head:
    """What enters the first layer, (n, d); the target (n, o) and how its distance is measured; `activations` of all
    layers but the last.
    """

    entering: Array
    target: Array
    activations: Sequence[str]
    kind: Distance
    temperature: float = 1.0

    def passed(self, weights: Sequence[Array]) -> tuple[list[Array], Array]:
        """What enters each layer, and the outputs, with these weights (d + 1, r), the biases in the last row."""
        inputs = [self.entering]
        for weight, name in zip(weights, self.activations, strict=False):
            inputs.append(ACTIVATIONS[name][0](_affine(inputs[-1], weight)))
        return inputs, _affine(inputs[-1], weights[-1])

    def distance(self, weights: Sequence[Array]) -> float:
        """The mean over the samples, with these weights."""
        _, outputs = self.passed(weights)
        return distances.value(self.kind, outputs / self.temperature, self.target / self.temperature)


@dataclass(frozen=True)
class Moved:
    """The weights, and the mean distance before and after each step that was taken."""

    weights: list[Array]
    distances: list[float]


def refit(
    head: Head,
    weights: Sequence[Array],
    masks: Sequence[NDArray[np.bool_]],
    steps: int,
    tolerance: float = 1e-2,
) -> Moved:
    """At most `steps` steps from `weights`, in float32, whose elements are free where `masks` are True.

    Ends where a step gains less than the share `tolerance` of the distance, or none gains anything. Memory: some
    n (d + r) numbers of each layer.
    """
    current: list[Array] = [weight.astype(np.float32) for weight in weights]
    damping = DAMPING
    found = [head.distance(current)]
    for _ in range(steps):
        solver = _Step(head, current, masks)
        while damping <= MOST_DAMPING:
            moved: list[Array] = [
                weight + part for weight, part in zip(current, solver.step(damping), strict=True)
            ]
            after = head.distance(moved)
            if after < found[-1]:
                break
            damping *= 10
        else:
            break
        current, damping = moved, max(damping / 3, LEAST_DAMPING)
        found.append(after)
        if found[-2] - after < tolerance * found[-2]:
            break
    return Moved(current, found)


class _Step:
    """The head linearised at some weights."""

    def __init__(self, head: Head, weights: Sequence[Array], masks: Sequence[NDArray[np.bool_]]) -> None:
        self.weights, self.masks = weights, masks
        self.inputs, outputs = head.passed(weights)
        self.slopes = [
            ACTIVATIONS[name][1](x) for name, x in zip(head.activations, self.inputs[1:], strict=True)
        ]
        at, target = outputs / head.temperature, head.target / head.temperature
        self.head, self.at = head, at
        self.appended = [_appended(x) for x in self.inputs]
        pull = distances.gradient(head.kind, at, target) / head.temperature
        self.gradient = self._gathered(self._backward(pull))
        some = slice(None, None, -(-len(at) // _PRECONDITIONING))
        curvatures = self._curvatures(some)
        moments = [x[some].T @ x[some] / len(x[some]) for x in self.appended]
        self.eigen = [np.linalg.eigh(moment.astype(np.float64)) for moment in moments]
        self.curvatures = curvatures
        diagonals = [np.outer(np.diag(m), c) for m, c in zip(moments, curvatures, strict=True)]
        self.scale = float(np.mean(self._gathered(diagonals))) or 1.0

    def step(self, damping: float) -> list[Array]:
        strength = damping * self.scale

        def product(vector: Array) -> Array:
            pushed = self._forward(self._scattered(vector))
            # By the outputs themselves, of which a share 1/T is measured.
            curved = distances.curved(self.head.kind, self.at, pushed) / self.head.temperature**2
            return self._gathered(self._backward(curved)) + strength * vector

        def precondition(residual: Array) -> Array:
            solved = []
            for part, (values, vectors), curvature in zip(
                self._scattered(residual), self.eigen, self.curvatures, strict=True
            ):
                divisor = np.maximum(values, 0)[:, None] * curvature + strength
                solved.append(vectors @ ((vectors.T @ part) / divisor))
            return self._gathered(solved)

        found = conjugate_gradients(product, -self.gradient, precondition, iterations=_ITERATIONS)
        return [part.astype(np.float32) for part in self._scattered(found)]

    def _forward(self, direction: Sequence[Array]) -> Array:
        """How the outputs move with the weights, (n, o)."""
        moved: Array = self.appended[0] @ direction[0]
        for x, slope, weight, part in zip(
            self.appended[1:], self.slopes, self.weights[1:], direction[1:], strict=True
        ):
            moved = (moved * slope) @ weight[:-1] + x @ part
        return moved

    def _backward(self, pull: Array) -> list[Array]:
        """The mean over the samples of J^T times the pulls at their outputs (n, o)."""
        found: list[Array] = []
        for level in reversed(range(len(self.weights))):
            found.insert(0, self.appended[level].T @ pull / len(pull))
            if level:
                pull = (pull @ self.weights[level][:-1].T) * self.slopes[level - 1]
        return found

    def _curvatures(self, some: slice) -> list[Array]:
        """s (r,) of each layer, from some of the samples; of many outputs estimated without bias by random signs."""
        found = [np.zeros(weight.shape[1], np.float32) for weight in self.weights]
        at, slopes = self.at[some], [slope[some] for slope in self.slopes]
        for probe in self._probes(at):
            pull = distances.rooted(self.head.kind, at, probe) / self.head.temperature
            for level in reversed(range(len(self.weights))):
                found[level] += np.mean(np.square(pull), axis=0)
                if level:
                    pull = (pull @ self.weights[level][:-1].T) * slopes[level - 1]
        return found

    @staticmethod
    def _probes(outputs: Array) -> Iterator[Array]:
        """Vectors v (n, o) by which the sum of R v (R v)^T is the curvature, or is so on average."""
        n, size = outputs.shape
        if size <= _PROBES:
            yield from (np.broadcast_to(column, (n, size)) for column in np.eye(size, dtype=outputs.dtype))
            return
        random = np.random.default_rng(0)
        for _ in range(_PROBES):
            signs = random.integers(0, 2, (n, size)) * 2 - 1
            yield (signs / np.sqrt(_PROBES)).astype(outputs.dtype)

    def _gathered(self, matrices: Sequence[Array]) -> Array:
        parts = [matrix[mask] for matrix, mask in zip(matrices, self.masks, strict=True)]
        return np.concatenate(parts).astype(np.float64)

    def _scattered(self, vector: Array) -> list[Array]:
        parts = np.split(vector, np.cumsum([np.count_nonzero(mask) for mask in self.masks])[:-1])
        matrices = [np.zeros(mask.shape, np.float32) for mask in self.masks]
        for matrix, mask, part in zip(matrices, self.masks, parts, strict=True):
            matrix[mask] = part
        return matrices


def _affine(x: Array, weight: Array) -> Array:
    result: Array = x @ weight[:-1] + weight[-1]
    return result


def _appended(x: Array) -> Array:
    return np.concatenate([x, np.ones((len(x), 1), x.dtype)], axis=1)

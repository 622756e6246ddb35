"""Moments of a layer's inputs or outputs, streamed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Moments:
    """With n inputs x of a layer as the model is now, and x0 of the same samples in the model as trained:

    hessian = 2/n sum x x^T          (d, d), of the mean squared error, the same for each of the layer's outputs
    drift   = 2/n sum x (x0 - x)^T   (d, d), what pruning did to the inputs: zero before anything is pruned
    """

    hessian: NDArray[np.float64]
    drift: NDArray[np.float64]


def moments(batches: Iterable[tuple[NDArray[np.floating], NDArray[np.floating]]]) -> Moments:
    """The moments of batches (x, x0), each (rows, d).

    Raises `ValueError` where there are no rows, or numbers that are not finite.
    """
    hessian: NDArray[np.float64] = np.zeros(1)
    drift: NDArray[np.float64] = np.zeros(1)
    count = 0
    for now, trained in batches:
        x = now.astype(np.float64)
        hessian = hessian + 2 * x.T @ x
        # Where nothing was pruned yet, both are one array.
        drift = drift + (0 if trained is now else 2 * x.T @ (trained - x))
        count += len(x)
    _check(count, hessian, drift)
    return Moments(hessian / count, np.broadcast_to(drift / count, hessian.shape))


def mean_and_variance(
    batches: Iterable[NDArray[np.floating]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each channel, (channels,), the mean and the mean squared distance from it; batches are (rows, channels).

    Batches are put together by their means (Chan, Golub & LeVeque 1983, equation 1.5): sums of squares would lose the
    variance of a channel that hardly varies. Raises `ValueError` as `moments` does.
    """
    mean: NDArray[np.float64] = np.zeros(1)
    squares: NDArray[np.float64] = np.zeros(1)
    count = 0
    for batch in batches:
        rows = batch.astype(np.float64)
        own, n = rows.mean(axis=0), len(rows)
        squares = squares + np.sum((rows - own) ** 2, axis=0) + (own - mean) ** 2 * count * n / (count + n)
        mean, count = mean + (own - mean) * n / (count + n), count + n
    _check(count, mean, squares)
    return mean, squares / count


def _check(count: int, *sums: NDArray[np.float64]) -> None:
    if count == 0:
        raise ValueError("expected calibration samples, received none")
    if not all(np.isfinite(each).all() for each in sums):
        raise ValueError("expected finite activations on the calibration samples, received NaN or infinity")

"""Second moments of a layer's inputs, streamed."""

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
        drift = drift + 2 * x.T @ (trained - x)
        count += len(x)
    if count == 0:
        raise ValueError("expected calibration samples, received none")
    if not (np.isfinite(hessian).all() and np.isfinite(drift).all()):
        raise ValueError("expected finite activations on the calibration samples, received NaN or infinity")
    return Moments(hessian / count, drift / count)

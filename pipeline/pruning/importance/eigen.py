"""Eigen: the textbook's rule that those units go whose curvature is least.

Of unit i, with the inputs x of the layer that makes it (a one for its bias among them) and its pre-activation a_i, the
Gauss-Newton block of its weights and the score are

    H_i = 1/n sum over samples and positions of d2L/da_i^2 x x^T,    lambda_i = min sigma(H_i)

where L is the distance of the model's outputs to those it has: of softmax and sigmoid outputs the divergence, and else
half the square (see `distance`). Directions in which no input lies count for nothing: the least eigenvalue is that
within the range of x. No labels are needed.

lambda_i is what the flattest direction costs, w_i^T H_i w_i >= lambda_i |w_i|^2, not what the unit's own weights w_i
do: units are told apart by how flat they are and not by what they contribute.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.linalg import eigvalsh

from pipeline.pruning.importance import Curvatures, Senses, UnitOptions
from pipeline.pruning.surgery.groups import Group

UNIT: Literal["loss", "relative"] = "relative"
GRANULARITY: Literal["element", "unit"] = "unit"
NEEDS: frozenset[str] = frozenset({"calibration"})
ALLOCATIONS = ("uniform",)

# 256 MiB of float64 for the blocks that are made at once; the curvatures are computed anew for the next.
_BLOCK_ELEMENTS = 1 << 25


class Options(UnitOptions):
    """Options of the method 'eigen'."""

    calibration_samples: int = Field(
        1024,
        ge=1,
        description="training inputs that make the blocks, and by which the layers that read the units are solved; a "
        "unit that is active on fewer of them than its layer has inputs has the curvature zero",
    )


def scores(group: Group, senses: Senses, options: Options) -> NDArray[np.floating] | None:
    """(units,): lambda_i, the least of those of all layers that make the unit; None where one is not Dense or a plain
    convolution.
    """
    found = np.full(group.size, np.inf)
    for producer in group.producers:
        curvatures = senses.curvatures(producer.layer)
        if curvatures is None:
            return None
        least = smallest(curvatures, producer.columns.ravel()).reshape(producer.columns.shape)
        found = np.minimum(found, least.min(axis=1))
    return found


def smallest(curvatures: Curvatures, columns: NDArray[np.intp]) -> NDArray[np.float64]:
    """lambda (columns,) of these outputs of a layer."""
    basis, samples = _range(curvatures)
    width = basis.shape[1]
    together = max(1, _BLOCK_ELEMENTS // max(width**2, 1))
    found = np.zeros(len(columns))
    for start in range(0, len(columns) if width else 0, together):
        part = columns[start : start + together]
        blocks = np.zeros((len(part), width, width))
        for x, squares in curvatures():
            within = x.reshape(-1, x.shape[-1]) @ basis
            for block, weights in zip(blocks, squares.reshape(len(within), -1).T[part], strict=True):
                block += (within * weights[:, None]).T @ within
        found[start : start + together] = [
            max(float(eigvalsh(block / samples, subset_by_index=(0, 0))[0]), 0.0) for block in blocks
        ]
    return found


def _range(curvatures: Curvatures) -> tuple[NDArray[np.float64], int]:
    """An orthonormal basis (d, k) of the inputs' range, as far as float32 tells, and how many samples there are."""
    moment, samples = np.zeros((1, 1)), 0
    for x, _ in curvatures():
        rows = x.reshape(-1, x.shape[-1]).astype(np.float64)
        moment, samples = moment + rows.T @ rows, samples + len(x)
    values, vectors = np.linalg.eigh(moment)
    return vectors[:, values > values[-1] * len(values) * np.finfo(np.float32).eps], samples

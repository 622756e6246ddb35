"""Cutting units out of two kernels that follow each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]


def keep_units(
    kernel: Array, vectors: Sequence[Array], next_kernel: Array, units: NDArray[Any]
) -> tuple[Array, list[Array], Array]:
    """Keep only `units` of a layer: of the last axis of its `kernel`, of its `vectors` (one entry a unit, such as
    a bias) and of the rows of `next_kernel` (units, next_outputs).

    The two layers then compute what they would with the other rows of `next_kernel` set to zero.
    """
    return kernel[..., units], [vector[units] for vector in vectors], next_kernel[units]

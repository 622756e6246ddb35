"""The distance of a model of several outputs: the sum of theirs, the outputs side by side in one matrix.

Value and gradient are those of each output; the curvature has a block for each on its diagonal, and so has its root.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.pruning import distance
from pipeline.pruning.distance import Distance

Array = NDArray[Any]


@dataclass(frozen=True)
class OutputDistances:
    """A distance for each output, whose columns of f (n, o) are as many as `sizes` says, one output after the other."""

    kinds: tuple[Distance, ...]
    sizes: tuple[int, ...]

    def value(self, f: Array, target: Array) -> float:
        """The mean over samples of the sum over outputs."""
        return sum(distance.value(kind, f[:, part], target[:, part]) for kind, part in self._parts())

    def gradient(self, f: Array, target: Array) -> Array:
        """By the outputs, (n, o)."""
        found = [distance.gradient(kind, f[:, part], target[:, part]) for kind, part in self._parts()]
        return np.concatenate(found, axis=1)

    def root(self, f: Array) -> Array | None:
        """R (n, o, o) with R R^T the curvature at `f`; None stands for the identity."""
        if set(self.kinds) == {"squared"}:
            return None
        found = np.zeros((*f.shape, f.shape[1]), f.dtype)
        for kind, part in self._parts():
            block = distance.root(kind, f[:, part])
            found[:, part, part] = np.eye(part.stop - part.start) if block is None else block
        return found

    def curved(self, f: Array, v: Array) -> Array:
        """R R^T v at outputs `f`, both (n, o): what the gradient changes by along `v`, without R."""
        found = [distance.curved(kind, f[:, part], v[:, part]) for kind, part in self._parts()]
        return np.concatenate(found, axis=1)

    def _parts(self) -> Iterator[tuple[Distance, slice]]:
        ends = np.cumsum(self.sizes)
        for kind, size, end in zip(self.kinds, self.sizes, ends, strict=True):
            yield kind, slice(int(end) - size, int(end))

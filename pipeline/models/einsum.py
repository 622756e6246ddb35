"""Einsum: a product of inputs and a kernel, written as an equation, as a product of matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Einsum:
    """An `equation` of inputs and a kernel, 'abc,cde->abde' or with '...' for axes that only the inputs have.

    `summed` are the axes of the kernel that the inputs have too, and the output has not: those of the fan-in; `made`
    are those that the output has from the kernel.
    """

    def __init__(self, equation: str) -> None:
        both, self.output = equation.replace(" ", "").split("->")
        self.inputs, self.kernel = both.split(",")
        self.summed = [axis for axis in self.kernel if axis in self.inputs and axis not in self.output]
        self.made = [axis for axis in self.kernel if axis in self.output and axis not in self.inputs]

    def why_no_matrix(self) -> str | None:
        """A sentence saying why the kernel, flattened to (d, r), is not what inputs are multiplied with."""
        left = set(self.inputs) - set(self.kernel) - set(self.output)
        if [*self.summed, *self.made] != list(self.kernel) or left:
            return "Its kernel's axes are not those of its inputs followed by those of its outputs."
        return None

    def summed_axes(self, ndim: int) -> list[int]:
        """Which axes of inputs of `ndim` are summed over, in the kernel's order."""
        return _places(self.inputs, self.summed, ndim)

    def input_rows(self, entering: Array) -> Array:
        """The inputs as rows (n, d)."""
        return _rows(self.inputs, self.summed, entering)

    def output_rows(self, leaving: Array) -> Array:
        """What the equation gives, as rows (n, r)."""
        return _rows(self.output, self.made, leaving)


def _rows(axes: str, last: list[str], values: Array) -> Array:
    """The values with the axes `last` at the end, flattened, and all the others flattened, too."""
    moved = np.moveaxis(values, _places(axes, last, values.ndim), range(-len(last), 0))
    return moved.reshape(-1, int(np.prod(moved.shape[moved.ndim - len(last) :])))


def _places(axes: str, of: list[str], ndim: int) -> list[int]:
    spread = ndim - len(axes.replace("...", ""))
    names = list(axes.replace("...", "".join(map(str, range(spread)))))
    return [names.index(axis) for axis in of]

"""Granularity: which weights of a kernel go together."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Of a kernel (d, r): so many consecutive inputs by so many adjacent outputs.
BLOCKS = {"element": (1, 1), "1x4": (4, 1), "output2": (1, 2), "output4": (1, 4)}
KNOWN = (*BLOCKS, "N:M (2:4)")


@dataclass(frozen=True)
class Granularity:
    """Blocks of `inputs` consecutive inputs by `outputs` adjacent outputs of a kernel (d, r), removed whole.

    What is left over at an end is a block of its own. With a `pattern` (n, m) single weights go, and of every m
    consecutive inputs of an output n stay.
    """

    name: str
    inputs: int = 1
    outputs: int = 1
    pattern: tuple[int, int] | None = None

    def grid(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """How many blocks a kernel (d, r) has along its inputs and along its outputs."""
        return -(-shape[0] // self.inputs), -(-shape[1] // self.outputs)

    def fold(self, values: NDArray[Any]) -> NDArray[Any]:
        """Each block's sum of `values` (d, r)."""
        d, r = values.shape
        if self.inputs > 1:
            values = np.add.reduceat(values, np.arange(0, d, self.inputs), axis=0)
        return np.add.reduceat(values, np.arange(0, r, self.outputs), axis=1) if self.outputs > 1 else values

    def norm(self, weight: NDArray[np.floating]) -> NDArray[np.floating]:
        """Each block's L2 norm."""
        if self.inputs == self.outputs == 1:
            absolute: NDArray[np.floating] = np.abs(weight)
            return absolute
        norms: NDArray[np.float64] = np.sqrt(self.fold(np.square(weight, dtype=np.float64)))
        return norms

    def expand(self, blocks: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """The (d, r) array that has in every place the value of its block."""
        if self.inputs > 1:
            blocks = np.repeat(blocks, self.inputs, axis=0)[: shape[0]]
        return np.repeat(blocks, self.outputs, axis=1)[:, : shape[1]] if self.outputs > 1 else blocks

    def left(self, shape: tuple[int, ...], blocks: int) -> tuple[int, int]:
        """How many weights of a kernel (d, r) stay when `blocks` blocks go: at least (the largest go), and at most."""
        along = [_parts(*axis) for axis in zip(shape, (self.inputs, self.outputs), strict=True)]
        sizes = sorted((a * b, m * n) for a, m in along[0] for b, n in along[1])
        whole = int(np.prod(shape))
        return whole - _total(sizes[::-1], blocks), whole - _total(sizes, blocks)

    def removed_by_pattern(self, d: int) -> int:
        """How many of an output's `d` inputs the pattern removes."""
        if self.pattern is None:
            raise ValueError(f"{self.name} is no N:M pattern")
        n, m = self.pattern
        return (d // m) * (m - n) + max(d % m - n, 0)


def _parts(length: int, step: int) -> list[tuple[int, int]]:
    """The parts of an axis, as (size, how many): the whole ones, and what is left over."""
    return [(step, length // step), (length % step, 1 if length % step else 0)]


def _total(sizes: list[tuple[int, int]], blocks: int) -> int:
    """The size of the first `blocks` blocks of `sizes`, (size, how many)."""
    total = 0
    for size, many in sizes:
        total += size * min(many, blocks)
        blocks -= min(many, blocks)
    return total


def parse(name: str) -> Granularity:
    """The granularity `name`. Raises `ValueError` for an unknown one."""
    if name in BLOCKS:
        return Granularity(name, *BLOCKS[name])
    if found := re.fullmatch(r"(\d+):(\d+)", name):
        n, m = int(found[1]), int(found[2])
        if 0 < n < m:
            return Granularity(name, pattern=(n, m))
        raise ValueError(f"expected N:M with 0 < N < M, so that N of every M weights stay; received {name!r}")
    raise ValueError(f"unknown granularity {name!r}; known: {', '.join(KNOWN)}")

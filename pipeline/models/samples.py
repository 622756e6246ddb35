"""Samples of a model: an array, or one for each of several inputs or outputs by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class NamedArrays:
    """Arrays by the name of the input or output that they are for, samples along the first axis of each.

    Its length and its indices count samples, as those of a single array do. Raises `ValueError` where the arrays are
    none, or not of one length.
    """

    arrays: Mapping[str, Array]

    def __post_init__(self) -> None:
        if len({len(array) for array in self.arrays.values()}) != 1:
            received = ", ".join(f"{name} {array.shape}" for name, array in self.arrays.items())
            raise ValueError(f"expected as many samples for each name, received {received or 'no arrays'}")

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, rows: slice | NDArray[np.integer[Any]]) -> NamedArrays:
        return NamedArrays({name: array[rows] for name, array in self.arrays.items()})


Samples = Array | NamedArrays


def each(function: Callable[[Array], Array], samples: Samples) -> Samples:
    """`function` of the array; of several named ones, of each."""
    if not isinstance(samples, NamedArrays):
        return function(samples)
    return NamedArrays({name: function(array) for name, array in samples.arrays.items()})


def as_type(array: Array, dtype: str) -> Array:
    """The array in another type of numbers. Raises `ValueError` where a whole number would not be the same any more."""
    kind = np.dtype(dtype).kind
    if array.dtype == dtype or (kind == "f" and array.dtype.kind in "fb"):
        return array.astype(dtype, copy=False)
    with np.errstate(invalid="ignore"):
        found = array.astype(dtype)
    if not np.array_equal(found, array):
        wrong = array[found != array].flat[0]
        raise ValueError(f"takes {dtype}, which {wrong:g} of the data's {array.dtype} is none of")
    return found


def by_name(samples: Samples) -> Mapping[str, Array]:
    """The arrays by their names; a single array has none, and goes by the empty text."""
    return samples.arrays if isinstance(samples, NamedArrays) else {"": samples}


def of_names(arrays: Sequence[Array], names: Sequence[str]) -> Samples:
    """The arrays, each by its name; of one array, itself."""
    return arrays[0] if len(arrays) == 1 else NamedArrays(dict(zip(names, arrays, strict=True)))


def in_order(samples: Samples, names: Sequence[str]) -> list[Array]:
    """The array of each of `names`, in that order; a single array is that of the only one.

    Raises `ValueError` where the names are not those of the samples.
    """
    if not isinstance(samples, NamedArrays):
        if len(names) != 1:
            raise ValueError(f"expected samples for each of {', '.join(names)}, received a single array")
        return [samples]
    if set(samples.arrays) != set(names):
        raise ValueError(
            f"expected samples for {', '.join(names)}, received them for {', '.join(samples.arrays)}"
        )
    return [samples.arrays[name] for name in names]


def keyed(key: str, samples: Samples) -> dict[str, Array]:
    """Where samples lie in an .npz file, and among what a stage leaves: at `key`, or those of a name at `key/NAME`."""
    return {f"{key}/{name}" if name else key: array for name, array in by_name(samples).items()}


def at_key(key: str, values: Mapping[str, Value]) -> Value | dict[str, Value] | None:
    """What lies at `key`, or else at `key/NAME`, by those names; None where there is nothing."""
    if key in values:
        return values[key]
    start = f"{key}/"
    return {name.removeprefix(start): each for name, each in values.items() if name.startswith(start)} or None


def fitting_batch(samples: Samples, elements: int = 1 << 20, most: int = 1024) -> int:
    """How many samples, at least one, hold no more than `elements` numbers at any input."""
    size = max(int(np.prod(array.shape[1:])) for array in by_name(samples).values())
    return min(most, max(1, elements // max(1, size)))


def shapes(samples: Samples) -> dict[str, tuple[int, ...]]:
    """The shape of one sample, by name."""
    return {name: array.shape[1:] for name, array in by_name(samples).items()}


def sizes(samples: Samples) -> str:
    """The shapes in words."""
    return ", ".join(f"{name} {shape}".strip() for name, shape in shapes(samples).items())

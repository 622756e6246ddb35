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


def keyed(key: str, values: Value | Mapping[str, Value]) -> dict[str, Value]:
    """Where values lie in an .npz file and among the outputs of a stage: at `key`, or each at `key/NAME`."""
    return (
        {f"{key}/{name}": value for name, value in values.items()}
        if isinstance(values, Mapping)
        else {key: values}
    )


def at_key(key: str, values: Mapping[str, Value]) -> Value | dict[str, Value] | None:
    """What `keyed` laid at `key`: a value, or those by their names; None where there is nothing."""
    if key in values:
        return values[key]
    start = f"{key}/"
    return {
        name.removeprefix(start): value for name, value in values.items() if name.startswith(start)
    } or None

"""What a device answers beside what the host does, with one and the same file: the samples in which they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.measurement.agreement import LIMITS, ROUNDED
from pipeline.measurement.measurement import Record

# The samples that are told one by one, those first in which another class came out, then the farthest apart.
LISTED = 100
# Outputs may be larger than memory, and are looked at so many samples at a time.
BLOCK = 256


class Difference(Record):
    """A sample, counted from 0, and by how much its answers differ at most, beside the host's greatest output; null
    where only one of them is a finite number. Of a model that puts out a row of classes, the greatest of each."""

    sample: int
    difference: float | None
    device: int | None
    host: int | None


class BesideHost(Record):
    """Of so many samples, how many differ by more than `limit`, or in their class; of these at most LISTED, and in how
    many it is another class (null for a model without classes)."""

    samples: int
    differing: int
    other_class: int | None
    limit: float
    listed: tuple[Difference, ...]

    @property
    def sentence(self) -> str:
        """What came of it, in words."""
        if not self.differing:
            return f"the device answers as the host does, in all of {self.samples:,} samples"
        classes = "" if self.other_class is None else f", and in {self.other_class:,} with another class"
        first = ", ".join(str(each.sample) for each in self.listed[:10])
        more = ", ..." if self.differing > 10 else ""
        return (
            f"the device answers otherwise than the host in {self.differing:,} of {self.samples:,} samples (by over "
            f"{self.limit:.2g} of the greatest output){classes}: {first}{more}"
        )


@dataclass(frozen=True)
class _Found:
    """Of each sample: the difference, infinite where only one side is finite; the classes, -1 where there are none."""

    apart: np.ndarray
    device: np.ndarray
    host: np.ndarray


def compare(
    device: Mapping[str, np.ndarray],
    host: Mapping[str, np.ndarray],
    precision: str = "float32",
    quantum: float = 0.0,
) -> BesideHost:
    """Compare outputs (samples, ...) by name, the empty text for the only one, sample by sample.

    `precision` and `quantum` are as in `agreement.compare`. Raises `ValueError` for outputs of other names or sizes.
    """
    sizes = [{name: (len(array), array.size) for name, array in side.items()} for side in (device, host)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"expected outputs of the same names and sizes, received {sizes[0]} and {sizes[1]}")
    limit, found = LIMITS[precision], []
    for name, array in host.items():
        scale = _greatest(array)
        limit = max(limit, ROUNDED * quantum / scale) if scale else limit
        found.append(_found(device[name].reshape(array.shape), array, scale, classes=len(host) == 1))
    apart = np.max([each.apart for each in found], axis=0)
    other = found[0].device != found[0].host
    rows = np.flatnonzero((apart > limit) | other)
    order = rows[np.lexsort((-apart[rows], ~other[rows]))][:LISTED]
    classes = bool(len(apart)) and found[0].host[0] >= 0
    return BesideHost(
        samples=len(apart),
        differing=len(rows),
        other_class=int(other.sum()) if classes else None,
        limit=limit,
        listed=tuple(
            Difference(
                sample=int(row),
                difference=float(apart[row]) if np.isfinite(apart[row]) else None,
                device=int(found[0].device[row]) if classes else None,
                host=int(found[0].host[row]) if classes else None,
            )
            for row in order
        ),
    )


def _greatest(array: np.ndarray) -> float:
    """The greatest finite number, of either sign."""
    found = [np.abs(part[np.isfinite(part)]).max(initial=0.0) for part in _parts(array)]
    return float(max(found, default=0.0))


def _found(device: np.ndarray, host: np.ndarray, scale: float, classes: bool) -> _Found:
    rows = classes and host.ndim == 2 and host.shape[1] > 1
    apart, ours, theirs = [], [], []
    for mine, other in zip(_parts(device), _parts(host), strict=True):
        with np.errstate(invalid="ignore"):
            difference = np.abs(mine - other) / (scale or 1.0)
        # Two that are alike do not differ, be they finite or not.
        alike = (mine == other) | (np.isnan(mine) & np.isnan(other))
        difference = np.where(alike, 0.0, np.where(np.isnan(difference), np.inf, difference))
        apart.append(difference.reshape(len(mine), -1).max(axis=1, initial=0.0))
        none = np.full(len(mine), -1)
        ours.append(mine.argmax(axis=1) if rows else none)
        theirs.append(other.argmax(axis=1) if rows else none)
    return _Found(*(np.concatenate(each) if each else np.zeros(0) for each in (apart, ours, theirs)))


def _parts(array: np.ndarray) -> Iterator[np.ndarray]:
    # Whole numbers would overflow in their own type, and of truth values there is no difference.
    return (array[at : at + BLOCK].astype(np.float64) for at in range(0, len(array), BLOCK))

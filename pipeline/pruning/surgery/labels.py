"""Labels of positions, and which of them are one unit: a union-find."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.intp]


class LabelSets:
    """Labels, each in a set of its own until `unite` joins them; a set that is pinned has to stay, with a reason.

    A set goes by its earliest label, its root.
    """

    def __init__(self) -> None:
        self._parent: Labels = np.empty(0, np.intp)
        self._pins: dict[int, str] = {}

    def new(self, count: int) -> Labels:
        """`count` labels that are not in use yet."""
        fresh = np.arange(len(self._parent), len(self._parent) + count, dtype=np.intp)
        self._parent = np.concatenate([self._parent, fresh])
        return fresh

    def roots(self, labels: Labels) -> Labels:
        """The roots of the sets that the labels are in, shaped as `labels`."""
        found = self._parent[labels]
        while not np.array_equal(further := self._parent[found], found):
            found = further
        self._parent[labels] = found
        return found

    def unite(self, first: Labels, second: Labels) -> None:
        """Join the sets of first[i] and second[i], for every i."""
        pairs = np.stack([self.roots(first).ravel(), self.roots(second).ravel()])
        for one, other in np.unique(pairs, axis=1).T.tolist():
            low, high = sorted((self._root(one), self._root(other)))
            if low == high:
                continue
            self._parent[high] = low
            reason = self._pins.pop(high, None)
            if reason is not None:
                self._pins.setdefault(low, reason)

    def pin(self, labels: Labels, reason: str) -> None:
        """The sets of these labels have to stay; the first reason given is the one that is told."""
        for root in np.unique(self.roots(labels)).tolist():
            self._pins.setdefault(root, reason)

    def why_pinned(self, label: int) -> str | None:
        """Why the label's set has to stay; None where it may leave."""
        return self._pins.get(self._root(label))

    def _root(self, label: int) -> int:
        while self._parent[label] != label:
            label = int(self._parent[label])
        return label

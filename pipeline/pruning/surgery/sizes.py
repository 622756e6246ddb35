"""How much smaller a model's weights are once units have left: exact, without making the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.pruning.surgery.flow import Flow
from pipeline.pruning.surgery.groups import Group


@dataclass(frozen=True)
class _Axis:
    """Along it lie `per_unit` positions of every unit of each group named, and others."""

    size: int
    per_unit: Mapping[str, int]

    def without(self, leaving: Mapping[str, int]) -> int:
        return self.size - sum(count * leaving.get(group, 0) for group, count in self.per_unit.items())


class Sizes:
    """The weights in which units have a place; `shapes` are those of every layer's weights, in the layer's order."""

    def __init__(
        self, flow: Flow, groups: Sequence[Group], shapes: Mapping[str, Sequence[tuple[int, ...]]]
    ) -> None:
        self._rest: dict[tuple[str, int], int] = {}
        self._axes: dict[tuple[str, int], list[_Axis]] = {}
        for place in flow.places.values():
            key, shape = (place.layer, place.weight), shapes[place.layer][place.weight]
            roots = flow.sets.roots(place.labels)
            per_unit = {
                group.name: int(np.count_nonzero(roots == group.labels[0]))
                for group in groups
                if group.labels[0] in roots
            }
            self._rest[key] = self._rest.get(key, int(np.prod(shape))) // len(roots)
            self._axes.setdefault(key, []).append(_Axis(len(roots), per_unit))

    def freed(self, leaving: Mapping[str, int]) -> dict[tuple[str, int], int]:
        """How many numbers each weight (layer, number) has less when so many units of each group have left."""
        none: dict[str, int] = {}
        return {key: self._size(key, none) - self._size(key, leaving) for key in self._axes}

    def _size(self, key: tuple[str, int], leaving: Mapping[str, int]) -> int:
        product = self._rest[key]
        for axis in self._axes[key]:
            product *= axis.without(leaving)
        return product

"""The cut: a model, and the same model without some of its units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.models import graph
from pipeline.models.graph import Graph
from pipeline.pruning.surgery.flow import Place
from pipeline.pruning.surgery.groups import Group, groups
from pipeline.pruning.surgery.labels import Labels
from pipeline.pruning.surgery.trace import trace


class Anatomy:
    """What is known about the units of a model: its `groups`, and for every layer why others stay."""

    def __init__(self, model: Graph) -> None:
        self.model = model
        self.flow = trace(model)
        self._weights = {node.name: node.layer.get_weights() for node in model.layers()}
        self.groups: list[Group] = groups(self.flow, self._weights)

    def cut(self, staying: Mapping[str, NDArray[np.integer[Any]]]) -> Any:
        """A copy of the model in which only these units of each group named are left; others keep all of theirs.

        It computes what the model does with the consumers' rows of the other units set to zero. Its class, its names
        and the types of its layers are the model's. Raises `ValueError` for an unknown group or unit, and where none
        would be left.
        """
        leaving = self.leaving(staying)
        weights: dict[str, list[NDArray[Any]]] = {}
        for place in self.flow.places.values():
            if not (stays := self.stays(place.labels, leaving)).all():
                own = weights.setdefault(place.layer, list(self._weights[place.layer]))
                own[place.weight] = np.compress(stays, own[place.weight], place.axis)
        options: dict[str, dict[tuple[str, ...], Any]] = {
            layer: {path: self._value(value, leaving) for path, value in values.items()}
            for layer, values in self.flow.options.items()
            if layer in weights or not all(self.stays(labels, leaving).all() for labels in _labels(values))
        }
        return graph.copy(self.model.model, weights, options)

    def leaving(self, staying: Mapping[str, NDArray[np.integer[Any]]]) -> Labels:
        """The labels of the units that leave."""
        known = {group.name: group for group in self.groups}
        gone = []
        for name, units in staying.items():
            if name not in known:
                raise ValueError(f"unknown group {name!r}; known: {', '.join(known) or 'none'}")
            size = known[name].size
            if not len(units) or not np.isin(units, np.arange(size)).all():
                raise ValueError(
                    f"group {name!r}: expected one or more of its units 0 to {size - 1}, received {units}"
                )
            gone.append(np.delete(known[name].labels, np.unique(units)))
        return np.concatenate([np.empty(0, np.intp), *gone])

    def stays(self, labels: Labels, leaving: Labels) -> NDArray[np.bool_]:
        """Which of the positions with these labels stay."""
        return ~np.isin(self.flow.sets.roots(labels), leaving)

    def places(self, layer: str) -> list[Place]:
        """Where the layer has units."""
        return self.flow.of(layer)

    def _value(self, value: Any, leaving: Labels) -> Any:
        if isinstance(value, tuple):
            return tuple(self._value(each, leaving) for each in value)
        return int(np.count_nonzero(self.stays(value, leaving))) if isinstance(value, np.ndarray) else value


def _labels(values: Mapping[tuple[str, ...], Any]) -> list[Labels]:
    every = [each for value in values.values() for each in (value if isinstance(value, tuple) else (value,))]
    return [each for each in every if isinstance(each, np.ndarray)]

"""What is told of each layer when units have left the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.models import graph
from pipeline.models.graph import Node
from pipeline.pruning.decision import LayerDecision
from pipeline.pruning.rules import Terms, told
from pipeline.pruning.surgery.cut import Anatomy
from pipeline.pruning.surgery.groups import Group
from pipeline.pruning.surgery.labels import Labels

Units = NDArray[np.intp]


class Account:
    """What is told of each layer when of each group the units in `staying` stay."""

    def __init__(
        self,
        anatomy: Anatomy,
        staying: Mapping[str, Units],
        unjudged: Sequence[str],
        multiple: int,
        terms: Mapping[str, Terms],
    ) -> None:
        self.anatomy, self.staying, self.unjudged, self.multiple = anatomy, staying, unjudged, multiple
        self.terms = terms
        self.leaving = anatomy.leaving(staying)

    def decision(self, node: Node, layer: Any) -> LayerDecision:
        """The decision of the layer, which now is `layer`."""
        width = self.anatomy.flow.widths.get(node.name, np.empty(0, np.intp))
        own = [place.labels for place in self.anatomy.places(node.name) if place.role != "consumes"]
        lost = any(self._lost(labels) for labels in (width, *own))
        return LayerDecision(
            layer=node.name,
            kind=node.kind,
            action="units removed" if lost else "kept",
            reason=" ".join([*self._own(node.name), *self._inputs(node.name)]) or self._followed(node, width),
            weights_before=graph.kernel_weights(node.layer),
            weights_after=graph.kernel_weights(layer),
            units_before=len(width) or None,
            units_after=len(width) - self._lost(width) or None,
        )

    def outputs(self) -> dict[str, Units]:
        """Of each layer that lost outputs, its last axis, those that are left."""
        staying = {
            name: self.anatomy.stays(labels, self.leaving)
            for name, labels in self.anatomy.flow.widths.items()
        }
        return {name: np.flatnonzero(stays) for name, stays in staying.items() if not stays.all()}

    def _own(self, layer: str) -> list[str]:
        """A sentence or more on the units that the layer makes, as far as they are known."""
        told = [self._group(group, layer) for group in self.anatomy.groups if layer in _makers(group)]
        reasons = dict.fromkeys(
            self.anatomy.flow.sets.why_pinned(int(label))
            for labels in self.anatomy.flow.made.get(layer, {}).values()
            for label in labels
        )
        return told + [reason for reason in reasons if reason is not None]

    def _group(self, group: Group, layer: str) -> str:
        gone = group.size - len(self.staying[group.name])
        terms = self.terms[group.name]
        if group.name in self.unjudged:
            return f"All its {group.size} {group.what} stay: the method cannot judge a layer that makes or reads them."
        if terms.skipped_by is not None:
            return f"The rule for {terms.skipped_by!r} leaves all its {group.size} {group.what} in place."
        if gone:
            others = [repr(name) for name in _makers(group) if name != layer]
            along = f", together with those of {', '.join(others)}" if others else ""
            words = f"{gone} of {group.size} {group.what} were removed, those of the lowest score{along}."
        else:
            words = f"All its {group.size} {group.what} stay: they are kept in multiples of {self.multiple}."
        return " ".join([words, *told(terms, group.what)])

    def _inputs(self, layer: str) -> list[str]:
        """What the layer no longer reads."""
        read = [place.labels for place in self.anatomy.places(layer) if place.role == "consumes"]
        entering = [labels for labels in read if not self._made_by(layer, labels)]
        lost = max((self._lost(labels) for labels in entering), default=0)
        return [f"{lost} of its inputs left with their units."] if lost else []

    def _made_by(self, layer: str, labels: Labels) -> bool:
        return any(labels is made for made in self.anatomy.flow.made.get(layer, {}).values())

    def _followed(self, node: Node, width: Labels) -> str:
        """Of a layer without units of its own: whose units it passes on."""
        if node.kind == "InputLayer":
            return "It is an input of the model."
        if (reason := self.anatomy.flow.whole.get(node.name)) is not None:
            return reason
        roots = self.anatomy.flow.sets.roots(width)
        makers = [
            layer
            for layer, made in self.anatomy.flow.made.items()
            if any(np.isin(self.anatomy.flow.sets.roots(labels), roots).any() for labels in made.values())
        ]
        if makers:
            return f"It follows {', '.join(map(repr, makers))}."
        reasons = [self.anatomy.flow.sets.why_pinned(int(label)) for label in width]
        return next((reason for reason in reasons if reason is not None), "It has no units.")

    def _lost(self, labels: Labels) -> int:
        return int(np.count_nonzero(~self.anatomy.stays(labels, self.leaving)))


def _makers(group: Group) -> list[str]:
    return [producer.layer for producer in group.producers]

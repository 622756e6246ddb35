"""Units leave a model: how many of each group, which, and what every layer is told."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.models import graph
from pipeline.models.graph import Graph, Node
from pipeline.models.samples import Samples
from pipeline.models.sensitivity import sensitivity
from pipeline.pruning import importance, masks
from pipeline.pruning.calibration import Moments
from pipeline.pruning.decision import LayerDecision
from pipeline.pruning.keras_layers import moments_of
from pipeline.pruning.reconstruction import reconstruct
from pipeline.pruning.surgery.cut import Anatomy
from pipeline.pruning.surgery.groups import Group
from pipeline.pruning.surgery.labels import Labels

Units = NDArray[np.intp]


def remove_units(
    trained: Graph,
    method: importance.UnitImportance,
    sparsity: float,
    options: importance.UnitOptions,
    calibration: Samples | None,
    progress: Callable[[str], None],
) -> tuple[Any, list[LayerDecision]]:
    """A copy of the model without the share `sparsity` of each group of its units, and a decision for each layer.

    With `calibration`, model inputs, the layers that read the units are reconstructed.
    """
    anatomy = Anatomy(trained)
    senses = _CalibrationSenses(trained, calibration)
    scores = {group.name: method.scores(group, senses, options) for group in anatomy.groups}
    staying = {
        group.name: np.arange(group.size)
        if (judged := scores[group.name]) is None
        else chosen(judged, kept(group.size, sparsity, options.multiple))
        for group in anatomy.groups
    }
    twin = _reconstructed(trained, anatomy, staying, calibration, options).cut(staying)
    told = _Account(
        anatomy, staying, [name for name, each in scores.items() if each is None], options.multiple
    )
    decisions = [told.decision(node, twin.get_layer(node.name)) for node in trained.layers()]
    for decision in decisions:
        progress(f"{decision.layer}: {decision.reason}")
    return twin, decisions


def kept(size: int, sparsity: float, multiple: int) -> int:
    """How many of `size` units stay: what `sparsity` leaves, one or more, rounded up to a multiple while there are."""
    asked = max(1, size - masks.removals(sparsity, size))
    return min(size, -(-asked // multiple) * multiple)


def chosen(scores: NDArray[np.floating], count: int) -> Units:
    """The `count` units of the highest scores, sorted; of equal ones the later."""
    return np.flatnonzero(masks.by_count([scores], len(scores) - count)[0])


class _CalibrationSenses:
    """What the calibration inputs say, computed when it is asked for."""

    def __init__(self, trained: Graph, calibration: Samples | None) -> None:
        self._trained, self._calibration = trained, calibration
        self._layers = {node.name: node for node in trained.element_layers(calibrated=True)}

    def moments(self, layer: str) -> Moments | None:
        node = self._layers.get(layer)
        if node is None or self._calibration is None:
            return None
        return moments_of(node, self._trained, self._trained, self._calibration, constant=node.layer.use_bias)

    def sensitivity(self, layer: str) -> NDArray[np.float64]:
        return self._sensitivities[layer]

    @functools.cached_property
    def _sensitivities(self) -> Mapping[str, NDArray[np.float64]]:
        assert self._calibration is not None
        return sensitivity(self._trained.model, list(self._layers), self._calibration)


def _reconstructed(
    trained: Graph,
    anatomy: Anatomy,
    staying: Mapping[str, Units],
    calibration: Samples | None,
    options: importance.UnitOptions,
) -> Anatomy:
    """The anatomy of the model whose units that leave are read by nobody any more, the other weights making up."""
    if calibration is None:
        return anatomy
    gone: dict[str, NDArray[np.bool_]] = {}
    now = Graph(graph.copy(trained.model))
    for group in anatomy.groups:
        leaving = np.delete(np.arange(group.size), staying[group.name])
        for consumer in group.consumers if len(leaving) else ():
            layer = now.nodes[consumer.layer].layer
            weights = layer.get_weights()
            weights[consumer.index] = consumer.without(leaving, weights[consumer.index])
            layer.set_weights(weights)
            rows = gone.setdefault(consumer.layer, np.zeros(len(consumer.weight), bool))
            rows[consumer.rows[leaving]] = True
    reconstruct(trained, now, gone, calibration, options.damping)
    return Anatomy(now)


class _Account:
    """What is told of each layer when of each group the units in `staying` stay."""

    def __init__(
        self, anatomy: Anatomy, staying: Mapping[str, Units], unjudged: Sequence[str], multiple: int
    ) -> None:
        self.anatomy, self.staying, self.unjudged, self.multiple = anatomy, staying, unjudged, multiple
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
        if group.name in self.unjudged:
            return f"All its {group.size} {group.what} stay: a layer reads them that the method cannot judge."
        if not gone:
            return f"All its {group.size} {group.what} stay: they are kept in multiples of {self.multiple}."
        others = [repr(name) for name in _makers(group) if name != layer]
        along = f", together with those of {', '.join(others)}" if others else ""
        return f"{gone} of {group.size} {group.what} were removed, those of the lowest score{along}."

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

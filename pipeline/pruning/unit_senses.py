"""What the calibration inputs say about the layers that make units and those that read them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from pipeline.models.graph import Graph
from pipeline.models.sample_gradients import Objective, sample_gradients
from pipeline.models.samples import Samples, fitting_batch
from pipeline.models.sensitivity import sensitivity
from pipeline.pruning.calibration import Moments
from pipeline.pruning.importance import Curvatures
from pipeline.pruning.keras_layers import moments_of
from pipeline.pruning.keras_network import KerasNetwork, why_not_linearised
from pipeline.pruning.surgery.cut import Anatomy
from pipeline.pruning.surgery.groups import Consumer


class CalibrationSenses:
    """The `Senses` of a model as trained, each computed when it is asked for."""

    def __init__(
        self,
        trained: Graph,
        anatomy: Anatomy,
        calibration: Samples | None,
        objective: Objective | None,
    ) -> None:
        self._trained, self._anatomy = trained, anatomy
        self._calibration, self._objective = calibration, objective
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
        batch = fitting_batch(self._calibration, elements=1 << 18)
        return sensitivity(self._trained.model, list(self._layers), self._calibration, batch)

    def curvatures(self, layer: str) -> Curvatures | None:
        if self._calibration is None or why_not_linearised(self._trained.nodes[layer]) is not None:
            return None
        network = KerasNetwork(self._trained.model, [layer], self._calibration)

        def batches() -> Iterator[tuple[NDArray[np.floating], NDArray[np.floating]]]:
            for batch in network.linearise(network.matrices()):
                yield batch.inputs[0], np.square(batch.slopes[0]).sum(axis=1)

        return batches

    def gates(self, consumer: Consumer) -> NDArray[np.float64]:
        return self._gates[consumer.layer, consumer.index, consumer.axes]

    @functools.cached_property
    def _gates(self) -> Mapping[tuple[str, int, tuple[int, ...]], NDArray[np.float64]]:
        assert self._calibration is not None and self._objective is not None
        consumers = {
            (consumer.layer, consumer.index, consumer.axes): consumer
            for group in self._anatomy.groups
            for consumer in group.consumers
        }
        weights = [(layer, number) for layer, number, _ in consumers]
        found: dict[tuple[str, int, tuple[int, ...]], list[NDArray[np.float64]]] = {
            key: [] for key in consumers
        }
        for slopes in sample_gradients(self._trained.model, weights, self._calibration, self._objective):
            for (key, consumer), slope in zip(consumers.items(), slopes, strict=True):
                turned = slope.transpose(consumer.axes).reshape(consumer.weight.shape)
                found[key].append(np.sum(turned * consumer.weight, axis=1, dtype=np.float64))
        return {key: np.stack(rows) for key, rows in found.items()}

"""What the calibration inputs say about the layers that make units and those that read them."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pipeline.models.graph import Graph
from pipeline.models.sensitivity import sensitivity
from pipeline.pruning.calibration import Moments
from pipeline.pruning.keras_layers import moments_of


class CalibrationSenses:
    """The `Senses` of a model as trained, each computed when it is asked for."""

    def __init__(self, trained: Graph, calibration: NDArray[np.floating] | None) -> None:
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

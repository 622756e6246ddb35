"""Batch-norm re-estimation: moving means and variances as the inputs now have them. No labels, no training.

Pruning changes what enters a batch normalisation, whose statistics are still those of the trained model. They are
taken anew from calibration inputs, layer after layer in the order in which the model runs, so that each is measured
on what those before it, their statistics taken anew, now give.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.models.graph import Graph, Node
from pipeline.models.samples import Samples
from pipeline.pruning.affected import affected
from pipeline.pruning.calibration import mean_and_variance


def reestimate(dense: Any, model: Any, samples: Samples) -> dict[str, str]:
    """Set the moving mean and variance in `model` to those over the inputs `samples` (n, ...), in place.

    A normalisation that gets exactly what it got in `dense`, the model as trained, keeps its own. Returns a sentence
    for each of the others, by layer name: done, or why not. Memory is that of a batch. Raises `ValueError` for no
    samples, and for activations that are not finite.
    """
    now = Graph(model)
    reached = affected(Graph(dense), now)
    told: dict[str, str] = {}
    for node in now.nodes.values():
        if node.name not in reached or not _normalises(node.layer):
            continue
        if (reason := _why_not(node)) is not None:
            told[node.name] = f"Its batch-norm statistics are still those as trained: {reason}."
            continue
        mean, variance = mean_and_variance(_channels(now, node, samples))
        node.layer.moving_mean.assign(mean.astype(np.float32))
        node.layer.moving_variance.assign(variance.astype(np.float32))
        told[node.name] = f"Its statistics were taken anew from {len(samples)} samples."
    return told


def _channels(now: Graph, node: Node, samples: Samples) -> Iterator[NDArray[np.floating]]:
    """What enters the layer, as rows (n, channels)."""
    for entering in now.inputs(node.name, samples):
        last = np.moveaxis(entering, node.layer.axis, -1)
        yield last.reshape(-1, last.shape[-1])


def _normalises(layer: Any) -> bool:
    """Is the layer a batch normalisation, or is one within it?"""
    import keras

    within = [*getattr(layer, "layers", ()), getattr(layer, "layer", None)]
    return isinstance(layer, keras.layers.BatchNormalization) or any(map(_normalises, filter(None, within)))


def _why_not(node: Node) -> str | None:
    """The end of a sentence; None where the layer can be treated."""
    import keras

    if type(node.layer) is not keras.layers.BatchNormalization:
        return f"they are within a {node.kind}"
    if node.shared:
        return "the layer is shared, and serves several places of the model"
    return None

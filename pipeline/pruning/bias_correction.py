"""Bias correction: each layer's biases moved so that its mean outputs are what they were as trained.

Removing weights moves the mean of what a layer puts out, before its activation, by E[W^T x - W0^T x0]. That comes off
its biases (Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", equation 17,
with the means taken over calibration inputs), layer after layer in the order in which the model runs, so that each
also makes up for what those before it could not. No labels, no training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.models import graph
from pipeline.models.graph import Graph, Node
from pipeline.models.samples import Samples
from pipeline.pruning.affected import affected
from pipeline.pruning.calibration import mean_and_variance

Array = NDArray[Any]

# Layers that add their bias to each channel last of all but their activation.
KINDS = (
    *("Dense", "EinsumDense", "Conv1D", "Conv2D", "Conv3D"),
    *("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"),
    *("DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D"),
)


def correct_biases(
    dense: Any, model: Any, samples: Samples, outputs: Mapping[str, NDArray[np.intp]]
) -> dict[str, str]:
    """Move the biases of `model` by what its layers' mean outputs over the inputs `samples` (n, ...) lost, in place.

    `dense` is the model as trained; `outputs` says of each layer that lost units which are left, as indexes among
    those it had. A layer that puts out exactly what it did as trained is left as it is. Returns a sentence for each of
    the others that could have a bias, by layer name: done, or why not. Memory is that of a batch. Raises `ValueError`
    for no samples, and for activations that are not finite.
    """
    trained, now = Graph(dense), Graph(model)
    bare_trained, bare_now = _without_activations(dense), _without_activations(model)
    reached = affected(trained, now)
    told: dict[str, str] = {}
    for name, node in now.nodes.items():
        if name not in reached or not _may_have_a_bias(node.layer):
            continue
        if (reason := _why_not(node)) is not None:
            told[name] = f"Its biases were not corrected: {reason}."
            continue
        wanted = _mean(trained, bare_trained, name, samples)[outputs.get(name, slice(None))]
        moved = wanted - _mean(now, bare_now, name, samples)
        node.layer.bias.assign_add(moved.astype(np.float32))
        told[name] = (
            f"Its biases moved by {np.abs(moved).max():.2g} at the most, to the mean outputs it had as trained."
        )
    return told


def _mean(model: Graph, bare: Any, name: str, samples: Samples) -> NDArray[np.float64]:
    """Of each channel of what leaves the layer, before its activation."""
    layer = bare.get_layer(name)
    channels = 1 if getattr(layer, "data_format", None) == "channels_first" else -1

    def rows() -> Iterator[NDArray[np.floating]]:
        for entering in model.inputs(name, samples):
            last = np.moveaxis(np.asarray(layer(entering)), channels, -1)
            yield last.reshape(-1, last.shape[-1])

    return mean_and_variance(rows())[0]


def _without_activations(model: Any) -> Any:
    """A copy whose layers, called one by one, stop before their activation."""
    import keras

    twin = graph.copy(model)
    for layer in twin.layers:
        if type(layer).__name__ in KINDS:
            layer.activation = keras.activations.linear
    return twin


def _may_have_a_bias(layer: Any) -> bool:
    """Itself, or a layer within it."""
    sides = ("layer", "forward_layer", "backward_layer")
    within = [*getattr(layer, "layers", ()), *(getattr(layer, side, None) for side in sides)]
    own = type(layer).__name__ in KINDS or hasattr(layer, "use_bias")
    return own or any(map(_may_have_a_bias, filter(None, within)))


def _why_not(node: Node) -> str | None:
    """The end of a sentence; None where the layer can be treated."""
    import keras

    if type(node.layer) is not getattr(keras.layers, node.kind, None) or node.kind not in KINDS:
        return f"a {node.kind} does not simply add them to what it puts out"
    if node.layer.bias is None:
        return "it has none"
    if len(node.layer.bias.shape) != 1:
        return "they stand along several axes"
    if node.shared:
        return "the layer is shared, and serves several places of the model"
    return None

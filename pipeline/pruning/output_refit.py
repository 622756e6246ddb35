"""All weights that stay, solved together for the dense model's outputs: recovery without labels or training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.models.graph import Graph
from pipeline.models.samples import Samples
from pipeline.pruning import gauss_newton
from pipeline.pruning.keras_network import KerasNetwork


def refit_outputs(
    dense: Any,
    model: Any,
    masks: Mapping[str, NDArray[np.bool_]],
    samples: Samples,
    steps: int,
) -> list[float]:
    """Move the weights of `model` towards the answers of `dense` to the inputs `samples` (n, ...), in place.

    Kernels stay zero where their masks (by layer name, of the kernel's shape) are False; weights and biases of every
    Dense and convolution that can lose weights are free. Returns the mean distance of the outputs before and after
    each Gauss-Newton step taken, `steps` at the most; of memory and time see `gauss_newton.refit`. Raises `ValueError`
    for a model that cannot be linearised.
    """
    names = _names(model)
    if not names:
        return []
    target = KerasNetwork(dense, names, samples).target
    network = KerasNetwork(model, names, samples, target=target)
    free = [np.ones(matrix.shape, bool) for matrix in network.matrices()]
    for name, each in zip(names, free, strict=True):
        if name in masks:
            kernel = masks[name].reshape(-1, masks[name].shape[-1])
            each[: len(kernel)] = kernel
    found = gauss_newton.refit(network, network.matrices(), free, steps=steps)
    for name, weights in network.layer_weights(found.weights).items():
        model.get_layer(name).set_weights(weights)
    return found.distances


def check_outputs(model: Any, samples: Samples) -> None:
    """Raise `ValueError` for a model that `refit_outputs` refuses, whatever was pruned, or in which it finds nothing
    to move."""
    names = _names(model)
    if not names:
        raise ValueError(
            "expected a Dense layer or a plain convolution that the model calls once, it has none"
        )
    KerasNetwork(model, names, samples[:1])


def _names(model: Any) -> list[str]:
    return [node.name for node in Graph(model).element_layers(calibrated=True)]

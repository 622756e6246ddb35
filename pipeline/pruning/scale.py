"""What makes losses of different layers compare."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.pruning.layer import Layer

Scale = Literal["share", "sensitivity"]

MEANING = (
    "what the losses of different layers are compared by: share: of what each layer puts out; sensitivity: what they "
    "add to the squared error of the model's outputs, by the outputs' gradients"
)


def of_outputs(layer: Layer, hessian: NDArray[np.float64], scale: Scale) -> NDArray[np.float64]:
    """By what the loss w_j^T H w_j / 2 of each output of the layer is multiplied, (r,).

    share        1 / sum of w_j^T H w_j / 2 over the outputs, w their weights: the same for every output
    sensitivity  the layer's own, see `Layer`; of an output that the model hardly depends on, a trifle
    """
    if scale == "sensitivity":
        sensitivity = layer.sensitivity()
        return np.maximum(sensitivity, 1e-9 * (float(sensitivity.max()) or 1.0))
    weight = layer.weight.astype(np.float64)
    whole = float(np.sum(weight * (hessian @ weight))) / 2
    return np.full(weight.shape[1], 1 / (whole or 1.0))

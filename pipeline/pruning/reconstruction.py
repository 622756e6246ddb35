"""Sequential reconstruction: each layer solved for the outputs it had as trained, on the inputs it now gets."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pipeline.models.graph import Graph
from pipeline.models.samples import Samples
from pipeline.pruning import obs
from pipeline.pruning.calibration import Moments
from pipeline.pruning.keras_layers import moments_of


def without_rows(weight: obs.Floats, moments: Moments, gone: NDArray[np.bool_], damping: float) -> obs.Floats:
    """The weight (d, r) whose rows `gone` (d,) are zero that comes closest to what the layer put out as trained.

    With the normal equations H W' = (H + D) W of `Moments`, and lambda, see `obs.damped`, holding W' to W:
    (H + lambda I)_SS W'_S = ((H + lambda I + D) W)_S for the rows S that stay.
    """
    hessian, _ = obs.damped(moments.hessian, damping)
    right = (hessian + moments.drift) @ weight
    stays, found = ~gone, np.zeros(weight.shape)
    if stays.any():
        found[stays] = obs.solve(hessian[np.ix_(stays, stays)], right[stays])
    return found


def reconstruct(
    trained: Graph,
    now: Graph,
    gone: Mapping[str, NDArray[np.bool_]],
    calibration: Samples,
    damping: float,
) -> None:
    """Solve for the weights and biases in `now` of each layer named, of which the inputs `gone` (d,) left, in place.

    In the order in which the model runs: each layer makes up for what those before it lost, too. Of the layers named
    those are passed over that are no product with a kernel.
    """
    for node in now.element_layers(calibrated=True):
        if node.name not in gone:
            continue
        layer = node.layer
        before, kernel, rows = trained.nodes[node.name], layer.kernel, gone[node.name]
        weight = np.asarray(before.layer.kernel, np.float64).reshape(-1, kernel.shape[-1])
        if layer.use_bias:
            weight, rows = np.vstack([weight, np.asarray(before.layer.bias)[None]]), np.append(rows, False)
        moments = moments_of(before, trained, now, calibration, constant=layer.use_bias)
        found = without_rows(weight, moments, rows, damping).astype(np.float32)
        if layer.use_bias:
            layer.bias.assign(found[-1])
            found = found[:-1]
        kernel.assign(found.reshape(kernel.shape))

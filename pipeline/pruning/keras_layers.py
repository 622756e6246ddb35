"""A layer of a Keras model as the pruning kernels see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.models.graph import Graph, Node
from pipeline.models.samples import Samples
from pipeline.pruning.calibration import Moments, moments
from pipeline.pruning.layer import Layer
from pipeline.pruning.patches import patches

Array = NDArray[Any]
Sensitivities = Callable[[], Mapping[str, NDArray[np.float64]]]

# 16 MiB of float32; the moments need some four times that, in float64, on top.
_PART_ELEMENTS = 1 << 22


def kernel_of(layer: Any) -> Any:
    """The variable whose weights are removed; of a separable convolution the pointwise one."""
    return layer.pointwise_kernel if hasattr(layer, "pointwise_kernel") else layer.kernel


def layer_of(
    node: Node,
    trained: Graph,
    now: Graph,
    calibration: Samples | None,
    sensitivities: Sensitivities,
    positions: int,
) -> Layer:
    """The layer `node` of the model as `trained`; its moments are those in `now`, the model being pruned."""
    kernel = np.asarray(kernel_of(node.layer), np.float32)

    def streamed() -> Moments:
        assert calibration is not None
        return moments_of(node, trained, now, calibration)

    return Layer(
        name=node.name,
        kind=node.kind,
        weight=kernel.reshape(-1, kernel.shape[-1]),
        moments=streamed,
        sensitivity=lambda: sensitivities()[node.name],
        shape=kernel.shape,
        positions=positions,
    )


def moments_of(
    node: Node, trained: Graph, now: Graph, calibration: Samples, constant: bool = False
) -> Moments:
    """The moments of a layer's inputs, of the model as `trained` and as it is `now`; `constant` adds an input of one,
    as a bias has.
    """

    def rows(entering: Array) -> Array:
        found = _rows(node, entering)
        return np.concatenate([found, np.ones((len(found), 1), found.dtype)], axis=1) if constant else found

    pairs = zip(now.inputs(node.name, calibration), trained.inputs(node.name, calibration), strict=True)
    return moments((rows(x[part]), rows(x0[part])) for x, x0 in pairs for part in _parts(node, x))


def _parts(node: Node, entering: Array) -> Iterator[slice]:
    """The samples of a batch in parts whose rows, together, have a bounded size: a convolution multiplies them."""
    positions = entering[0].size // entering.shape[-1]
    step = max(1, _PART_ELEMENTS // (positions * int(np.prod(node.layer.kernel.shape[:-1]))))
    return (slice(start, start + step) for start in range(0, len(entering), step))


def _rows(node: Node, entering: Array) -> Array:
    """A layer's inputs as rows (n, fan_in), whose product with its kernel the layer is."""
    layer = node.layer
    if node.kind == "Conv2D":
        entering = patches(entering, layer.kernel_size, layer.strides, layer.dilation_rate, layer.padding)
    if node.kind == "Conv1D":
        (size,), (stride,), (dilation,) = layer.kernel_size, layer.strides, layer.dilation_rate
        padding = layer.padding
        if padding == "causal":
            entering, padding = np.pad(entering, ((0, 0), ((size - 1) * dilation, 0), (0, 0))), "valid"
        entering = patches(entering[:, None], (1, size), (1, stride), (1, dilation), padding)
    return entering.reshape(-1, entering.shape[-1])

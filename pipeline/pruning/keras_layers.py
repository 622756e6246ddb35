"""A kernel of a Keras model as the pruning methods see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.models import observation
from pipeline.models.einsum import Einsum
from pipeline.models.graph import Graph, Node
from pipeline.models.kernels import Kernel, kernel_named
from pipeline.models.samples import Samples
from pipeline.pruning.calibration import Moments, moments
from pipeline.pruning.layer import Layer
from pipeline.pruning.patches import patches

Array = NDArray[Any]
Sensitivities = Callable[[], Mapping[str, NDArray[np.float64]]]

# 16 MiB of float32; the moments need some four times that, in float64, on top.
_PART_ELEMENTS = 1 << 22


def layer_of(
    kernel: Kernel,
    trained: Graph,
    now: Graph,
    calibration: Samples | None,
    sensitivities: Sensitivities,
    positions: int,
) -> Layer:
    """The kernel of the model as `trained`; its moments are those in `now`, the model being pruned."""

    def streamed() -> Moments:
        assert calibration is not None
        return kernel_moments(kernel.name, trained, now, calibration)

    return Layer(
        name=kernel.name,
        kind=kernel.node.kind,
        weight=kernel.matrix(),
        moments=streamed,
        sensitivity=lambda: sensitivities()[kernel.name],
        shape=tuple(kernel.variable.shape),
        positions=positions,
    )


def moments_of(
    node: Node, trained: Graph, now: Graph, calibration: Samples, constant: bool = False
) -> Moments:
    """The moments of what enters a layer that is one product, see `kernel_moments`."""
    return kernel_moments(node.name, trained, now, calibration, constant)


def kernel_moments(
    name: str, trained: Graph, now: Graph, calibration: Samples, constant: bool = False
) -> Moments:
    """The moments of what enters a kernel, in the model as `trained` and as it is `now`; `constant` adds an input of
    one, as a bias has.

    Of a recurrent layer each step of each sample counts as one input: x_t, or the state h_(t-1) as the model leaves it
    by then. An error of a step that the next ones carry on is not in the Hessian; in `now`, what was pruned before
    has moved the states, and that is in the drift.
    """
    kernel = kernel_named(now, name)

    def rows(entering: Array) -> Array:
        found = _rows(kernel.owner, entering)
        return np.concatenate([found, np.ones((len(found), 1), found.dtype)], axis=1) if constant else found

    def pairs() -> Iterator[tuple[Array, Array]]:
        if now is trained:
            for x, counted in observation.entering(trained, kernel, calibration):
                yield (once := x[counted]), once
            return
        both = ((now, kernel), (trained, kernel_named(trained, name)))
        found = (observation.entering(wired, each, calibration) for wired, each in both)
        for (x, counted), (x0, counted0) in zip(*found, strict=True):
            which = counted & counted0
            yield x[which], x0[which]

    def both_rows(x: Array, x0: Array, part: slice) -> tuple[Array, Array]:
        found = rows(x[part])
        return found, found if x0 is x else rows(x0[part])

    return moments(both_rows(x, x0, part) for x, x0 in pairs() for part in _parts(kernel, x))


def _parts(kernel: Kernel, entering: Array) -> Iterator[slice]:
    """The samples of a batch in parts whose rows, together, have a bounded size: a convolution multiplies them."""
    positions = int(np.prod(entering.shape[1:-1]))
    step = max(1, _PART_ELEMENTS // (positions * kernel.shape[0]))
    return (slice(start, start + step) for start in range(0, len(entering), step))


def _rows(owner: Any, entering: Array) -> Array:
    """What enters a layer as rows (n, fan_in), whose product with its kernel the layer is."""
    kind = type(owner).__name__
    if kind == "EinsumDense":
        return Einsum(owner.equation).input_rows(entering)
    if kind == "Conv2D":
        entering = patches(entering, owner.kernel_size, owner.strides, owner.dilation_rate, owner.padding)
    if kind == "Conv1D":
        (size,), (stride,), (dilation,) = owner.kernel_size, owner.strides, owner.dilation_rate
        padding = owner.padding
        if padding == "causal":
            entering, padding = np.pad(entering, ((0, 0), ((size - 1) * dilation, 0), (0, 0))), "valid"
        entering = patches(entering[:, None], (1, size), (1, stride), (1, dilation), padding)
    return entering.reshape(-1, entering.shape[-1])

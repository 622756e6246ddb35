"""One pruning method, run over a Keras model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from pipeline.models import graph
from pipeline.models.graph import Graph, Node
from pipeline.pruning import importance
from pipeline.pruning.calibration import Moments, moments
from pipeline.pruning.decision import LayerDecision
from pipeline.pruning.layer import Layer
from pipeline.pruning.patches import patches
from pipeline.pruning.units import remove_units

Array = NDArray[Any]
Progress = Callable[[str], None]

# 16 MiB of float32; the moments need some four times that, in float64, on top.
_PART_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class PrunedModel:
    """The pruned copy, the masks of its kernels (True: the weight stays) and a decision for each of its layers.

    Layers that lost no single weight have no mask.
    """

    model: Any
    masks: dict[str, NDArray[np.bool_]]
    decisions: list[LayerDecision]


def prune_model(
    model: Any,
    method: str,
    sparsity: float,
    options: BaseModel,
    calibration: Array | None,
    progress: Progress = lambda line: None,
) -> PrunedModel:
    """Prune a copy of `model` to `sparsity`, the share of weights or units to remove, 0 <= sparsity < 1.

    `calibration` are model inputs, for the methods that need them. Biases and normalisation keep every weight unless
    their unit goes. Raises `ValueError` for a model, a sparsity or a calibration that cannot be used.
    """
    chosen = importance.load(method)
    if not 0 <= sparsity < 1:
        raise ValueError(f"expected a sparsity of at least 0 and less than 1, received {sparsity}")
    if not isinstance(options, chosen.Options):
        raise ValueError(f"expected the options of {method!r}, received {type(options).__module__}.Options")
    if "calibration" in chosen.NEEDS and calibration is None:
        raise ValueError(f"the method {method!r} needs calibration samples, received none")
    trained = Graph(model)
    if chosen.GRANULARITY == "unit":
        units = cast(importance.UnitImportance, chosen)
        twin, told = remove_units(trained, units, sparsity, cast(importance.UnitOptions, options), progress)
        return PrunedModel(twin, {}, told)
    elements = cast(importance.ElementImportance, chosen)
    return _remove_elements(trained, elements, sparsity, options, calibration, progress)


def _remove_elements(
    trained: Graph,
    method: importance.ElementImportance,
    sparsity: float,
    options: BaseModel,
    calibration: Array | None,
    progress: Progress,
) -> PrunedModel:
    now = Graph(graph.copy(trained.model))
    layers = [_layer(node, trained, now, calibration) for node in trained.element_layers()]
    masks: dict[str, NDArray[np.bool_]] = {}
    decisions: dict[str, LayerDecision] = {}
    for made in method.prune(layers, sparsity, options):
        kernel = now.nodes[made.name].layer.kernel
        kernel.assign(made.weight.reshape(kernel.shape))
        if made.decision.action == "pruned":
            masks[made.name] = made.mask.reshape(kernel.shape)
        decisions[made.name] = made.decision
        progress(f"{made.name}: {made.decision.reason}")
    every = [decisions.get(node.name) or _left_alone(node) for node in trained.layers()]
    return PrunedModel(now.model, masks, every)


def _layer(node: Node, trained: Graph, now: Graph, calibration: Array | None) -> Layer:
    kernel = np.asarray(node.layer.kernel, np.float32)

    def streamed() -> Moments:
        assert calibration is not None
        pairs = zip(now.inputs(node.name, calibration), trained.inputs(node.name, calibration), strict=True)
        return moments(
            (_rows(node, x[part]), _rows(node, x0[part])) for x, x0 in pairs for part in _parts(node, x)
        )

    return Layer(node.name, node.kind, kernel.reshape(-1, kernel.shape[-1]), streamed)


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
    return entering.reshape(-1, entering.shape[-1])


def _left_alone(node: Node) -> LayerDecision:
    weights = graph.kernel_weights(node.layer)
    return LayerDecision(
        layer=node.name,
        kind=node.kind,
        action="kept",
        reason=graph.why_not_elements(node) or "The method had nothing to say about the layer.",
        weights_before=weights,
        weights_after=weights,
    )

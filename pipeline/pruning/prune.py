"""One pruning method, run over a Keras model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from pipeline.models import graph
from pipeline.models.graph import Graph, Node
from pipeline.models.operations import multiply_accumulates, positions
from pipeline.models.samples import Samples
from pipeline.models.sensitivity import sensitivity
from pipeline.pruning import importance
from pipeline.pruning.allocation import Request
from pipeline.pruning.budget import Budget, Fixed
from pipeline.pruning.decision import LayerDecision
from pipeline.pruning.elements import prune_layers
from pipeline.pruning.granularity import Granularity, parse
from pipeline.pruning.keras_layers import kernel_of, layer_of
from pipeline.pruning.layer import Layer
from pipeline.pruning.rules import Rule, terms
from pipeline.pruning.units import remove_units

Progress = Callable[[str], None]


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
    sparsity: float | None,
    options: BaseModel,
    calibration: Samples | None,
    progress: Progress = lambda line: None,
    *,
    budget: Budget | None = None,
    granularity: str = "element",
    allocation: str = "auto",
    rules: Sequence[Rule] = (),
) -> PrunedModel:
    """Prune a copy of `model` to `sparsity`, the share of weights or units to remove, 0 <= sparsity < 1, or else to
    `budget`; a granularity N:M says by itself what goes, and takes neither.

    `calibration` are model inputs, for the methods that need them. Of `allocation` see that file; "auto" is the
    method's own. Biases and normalisation keep every weight unless their unit goes. What follows `progress` is for
    the methods that remove weights. Raises `ValueError`, before any work, for a model or a request that cannot be used.
    """
    chosen = importance.load(method)
    if not isinstance(options, chosen.Options):
        raise ValueError(f"expected the options of {method!r}, received {type(options).__module__}.Options")
    if sparsity is not None and not 0 <= sparsity < 1:
        raise ValueError(f"expected a sparsity of at least 0 and less than 1, received {sparsity}")
    if "calibration" in chosen.NEEDS and (calibration is None or len(calibration) == 0):
        raise ValueError(f"the method {method!r} needs calibration samples, received none")
    trained = Graph(model)
    _check_finite(trained)
    if chosen.GRANULARITY == "unit":
        if sparsity is None or rules or (granularity, allocation) != ("element", "auto"):
            raise ValueError(f"{method!r} removes whole units, by a sparsity and nothing else")
        units = cast(importance.UnitImportance, chosen)
        twin, told = remove_units(
            trained, units, sparsity, cast(importance.UnitOptions, options), calibration, progress
        )
        return PrunedModel(twin, {}, told)
    elements = cast(importance.ElementImportance, chosen)
    request = Request(
        goal=_goal(sparsity, budget, parse(granularity)),
        granularity=parse(granularity),
        allocation=_allocation(method, elements, allocation),
        terms=terms(rules, [node.name for node in trained.layers()]),
    )
    return _remove_elements(trained, elements, options, request, calibration, progress)


def _check_finite(trained: Graph) -> None:
    for node in trained.layers():
        if not all(np.isfinite(weight).all() for weight in node.layer.get_weights()):
            raise ValueError(f"the weights of {node.name!r} are NaN or infinite; train the model anew")


def _goal(sparsity: float | None, budget: Budget | None, granularity: Granularity) -> float | Budget:
    given = [each for each in (sparsity, budget) if each is not None]
    if granularity.pattern is not None:
        n, m = granularity.pattern
        if budget is not None or sparsity not in (None, 1 - n / m):
            raise ValueError(
                f"the granularity {granularity.name} removes {1 - n / m:.4g}; leave the rest out"
            )
        return 1 - n / m
    if len(given) != 1:
        raise ValueError(f"expected a sparsity or a budget, received {'both' if given else 'neither'}")
    return given[0]


def _allocation(method: str, chosen: importance.ElementImportance, allocation: str) -> str:
    if allocation == "auto":
        return chosen.ALLOCATIONS[0]
    if allocation not in chosen.ALLOCATIONS:
        known = ", ".join(chosen.ALLOCATIONS)
        raise ValueError(f"the method {method!r} has no allocation {allocation!r}; it has: {known}")
    return allocation


def _remove_elements(
    trained: Graph,
    method: importance.ElementImportance,
    options: BaseModel,
    request: Request,
    calibration: Samples | None,
    progress: Progress,
) -> PrunedModel:
    now = Graph(graph.copy(trained.model))
    nodes = trained.element_layers(calibrated="calibration" in method.NEEDS)
    counted = isinstance(request.goal, Budget) and request.goal.measure == "macs"
    sensitivities = functools.cache(
        lambda: sensitivity(trained.model, [node.name for node in nodes], cast(Samples, calibration))
    )
    layers = [
        layer_of(node, trained, now, calibration, sensitivities, positions(node) if counted else 1)
        for node in nodes
    ]
    request = replace(request, fixed=_fixed(trained, layers, counted))
    masks: dict[str, NDArray[np.bool_]] = {}
    decisions: dict[str, LayerDecision] = {}
    for made in prune_layers(layers, method, options, request):
        kernel = kernel_of(now.nodes[made.name].layer)
        kernel.assign(made.weight.reshape(kernel.shape))
        if made.decision.action == "pruned":
            masks[made.name] = made.mask.reshape(kernel.shape)
        decisions[made.name] = made.decision
        progress(f"{made.name}: {made.decision.reason}")
    calibrated = "calibration" in method.NEEDS
    every = [decisions.get(node.name) or _left_alone(node, calibrated) for node in trained.layers()]
    return PrunedModel(now.model, masks, every)


def _fixed(trained: Graph, layers: Sequence[Layer], counted: bool) -> Fixed:
    """What the model costs without the kernels of `layers`."""
    parameters = trained.model.count_params() - sum(layer.weight.size for layer in layers)
    macs = sum(multiply_accumulates(node) for node in trained.nodes.values()) if counted else 0
    return Fixed(parameters, macs - sum(layer.positions * layer.weight.size for layer in layers if counted))


def _left_alone(node: Node, calibrated: bool) -> LayerDecision:
    weights = graph.kernel_weights(node.layer)
    return LayerDecision(
        layer=node.name,
        kind=node.kind,
        action="kept",
        reason=graph.why_not_elements(node, calibrated) or "The method had nothing to say about the layer.",
        weights_before=weights,
        weights_after=weights,
    )

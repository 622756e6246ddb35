"""One pruning method, run over a Keras model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from pipeline.models import graph
from pipeline.models.graph import Graph
from pipeline.models.kernels import kernel_named, kernels_of, why_not_pruned
from pipeline.models.node import Node, why_not_elements
from pipeline.models.operations import multiply_accumulates, positions
from pipeline.models.sample_gradients import Objective
from pipeline.models.samples import Samples
from pipeline.models.sensitivity import sensitivity
from pipeline.pruning import importance
from pipeline.pruning.allocation import Request
from pipeline.pruning.budget import Budget, Fixed
from pipeline.pruning.decision import LayerDecision
from pipeline.pruning.elements import prune_layers
from pipeline.pruning.granularity import Granularity, parse
from pipeline.pruning.keras_layers import layer_of
from pipeline.pruning.layer import Layer
from pipeline.pruning.rules import Rule, terms
from pipeline.pruning.units import remove_units

Progress = Callable[[str], None]


@dataclass(frozen=True)
class PrunedModel:
    """The pruned copy, the masks of its kernels (True: the weight stays), and a decision for each of its layers, or of
    each kernel where a layer has several.

    Masks are by the kernel's name, see `Kernel`. Kernels that lost no single weight have none. Of layers that lost
    units `outputs` says which are left, as indexes among those they had.
    """

    model: Any
    masks: dict[str, NDArray[np.bool_]]
    decisions: list[LayerDecision]
    outputs: dict[str, NDArray[np.intp]] = field(default_factory=dict)


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
    objective: Objective | None = None,
) -> PrunedModel:
    """Prune a copy of `model` to `sparsity`, the share of weights or units to remove, 0 <= sparsity < 1, or else to
    `budget`; a granularity N:M says by itself what goes, and takes neither.

    `calibration` are model inputs, for the methods that need them, and `objective` says what training lowers on these
    samples, for those that need labels. Of `allocation` see that file; "auto" is the
    method's own. Biases and normalisation keep every weight unless their unit goes. Methods that remove units know no
    `granularity`. Raises `ValueError`, before any work, for a model or a request that cannot be used.
    """
    chosen = importance.load(method)
    if not isinstance(options, chosen.Options):
        raise ValueError(f"expected the options of {method!r}, received {type(options).__module__}.Options")
    if sparsity is not None and not 0 <= sparsity < 1:
        raise ValueError(f"expected a sparsity of at least 0 and less than 1, received {sparsity}")
    if "calibration" in chosen.NEEDS and (calibration is None or len(calibration) == 0):
        raise ValueError(f"the method {method!r} needs calibration samples, received none")
    if "labels" in chosen.NEEDS:
        _check_objective(method, objective, calibration)
    trained = Graph(model)
    _check_finite(trained)
    if calibration is not None:
        _check_stateless(trained)
    if chosen.GRANULARITY == "unit":
        if granularity != "element":
            raise ValueError(f"{method!r} removes whole units; leave the granularity out")
        units = cast(importance.UnitImportance, chosen)
        twin, told, outputs = remove_units(
            *(trained, units, _goal(sparsity, budget, parse(granularity))),
            *(cast(importance.UnitOptions, options), calibration, progress),
            allocation=_allocation(method, chosen, allocation),
            rules=rules,
            objective=objective,
        )
        return PrunedModel(twin, {}, told, outputs)
    elements = cast(importance.ElementImportance, chosen)
    request = Request(
        goal=_goal(sparsity, budget, parse(granularity)),
        granularity=parse(granularity),
        allocation=_allocation(method, chosen, allocation),
        terms=terms(rules, [name for node in trained.layers() for name in _names(node)]),
    )
    return _remove_elements(trained, elements, options, request, calibration, progress)


def _check_objective(method: str, objective: Objective | None, calibration: Samples | None) -> None:
    if objective is None:
        raise ValueError(f"the method {method!r} needs the targets of its samples and a loss, received none")
    if len(objective.targets) != len(calibration if calibration is not None else ()):
        raise ValueError(
            f"the method {method!r} needs a target for each of its samples, received {len(objective.targets)}"
        )


def left_whole(model: Any) -> list[LayerDecision]:
    """The decisions of a pruning that removes nothing; of any model, also one whose wiring Keras does not record."""
    return [
        LayerDecision(
            layer=layer.name,
            kind=type(layer).__name__,
            action="kept",
            reason="The plan prunes nothing (method none).",
            weights_before=graph.kernel_weights(layer),
            weights_after=graph.kernel_weights(layer),
        )
        for layer in model.layers
    ]


def _check_finite(trained: Graph) -> None:
    for node in trained.layers():
        if not all(np.isfinite(weight).all() for weight in node.layer.get_weights()):
            raise ValueError(f"the weights of {node.name!r} are NaN or infinite; train the model anew")


def _check_stateless(trained: Graph) -> None:
    for node in trained.layers():
        if getattr(node.layer, "stateful", False):
            raise ValueError(
                f"{node.name!r} carries its state from one batch to the next, so calibration samples cannot be told "
                "apart; build the model with stateful=False, or prune by magnitude or lamp"
            )


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


def _allocation(method: str, chosen: importance.Importance, allocation: str) -> str:
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
    calibrated = "calibration" in method.NEEDS
    every = [kernel for node in trained.nodes.values() for kernel in kernels_of(node)]
    kernels = [kernel for kernel in every if why_not_pruned(kernel, calibrated) is None]
    counted = isinstance(request.goal, Budget) and request.goal.measure == "macs"
    sensitivities = functools.cache(
        lambda: sensitivity(trained.model, [kernel.name for kernel in kernels], cast(Samples, calibration))
    )
    layers = [
        layer_of(kernel, trained, now, calibration, sensitivities, positions(kernel.node) if counted else 1)
        for kernel in kernels
    ]
    request = replace(request, fixed=_fixed(trained, layers, counted))
    masks: dict[str, NDArray[np.bool_]] = {}
    decisions: dict[str, LayerDecision] = {}
    for made in prune_layers(layers, method, options, request):
        variable = kernel_named(now, made.name).variable
        variable.assign(made.weight.reshape(variable.shape))
        if made.decision.action == "pruned":
            masks[made.name] = made.mask.reshape(variable.shape)
        decisions[made.name] = made.decision
        progress(f"{made.name}: {made.decision.reason}")
    return PrunedModel(now.model, masks, list(_every_decision(trained, decisions, calibrated)))


def _names(node: Node) -> list[str]:
    """What rules are for: the layer's kernels, or the layer where it has none."""
    return [kernel.name for kernel in kernels_of(node)] or [node.name]


def _fixed(trained: Graph, layers: Sequence[Layer], counted: bool) -> Fixed:
    """What the model costs without the kernels of `layers`."""
    parameters = trained.model.count_params() - sum(layer.weight.size for layer in layers)
    macs = sum(multiply_accumulates(node) for node in trained.nodes.values()) if counted else 0
    return Fixed(parameters, macs - sum(layer.positions * layer.weight.size for layer in layers if counted))


def _every_decision(
    trained: Graph, made: Mapping[str, LayerDecision], calibrated: bool
) -> Iterator[LayerDecision]:
    """Those `made` of the kernels, by name, and one for each kernel, or layer without any, that was left alone."""
    for node in trained.layers():
        kernels = kernels_of(node)
        if not kernels:
            yield _kept(node.name, node, graph.kernel_weights(node.layer), why_not_elements(node))
        for kernel in kernels:
            reason = why_not_pruned(kernel, calibrated)
            weights = int(np.count_nonzero(kernel.matrix()))
            yield made[kernel.name] if reason is None else _kept(kernel.name, node, weights, reason)


def _kept(name: str, node: Node, weights: int, reason: str | None) -> LayerDecision:
    return LayerDecision(
        layer=name,
        kind=node.kind,
        action="kept",
        reason=reason or "It has no kernel.",
        weights_before=weights,
        weights_after=weights,
    )

"""Units leave a model: how many of each group, which, and what every layer is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.models import graph
from pipeline.models.graph import Graph
from pipeline.models.operations import multiply_accumulates, times_multiplied
from pipeline.models.sample_gradients import Objective
from pipeline.models.samples import Samples
from pipeline.pruning import importance, masks, unit_allocation
from pipeline.pruning.budget import Budget, Fixed, cost
from pipeline.pruning.decision import LayerDecision
from pipeline.pruning.reconstruction import reconstruct
from pipeline.pruning.rules import Rule, terms_of_groups
from pipeline.pruning.surgery.cut import Anatomy
from pipeline.pruning.surgery.sizes import Sizes
from pipeline.pruning.unit_account import Account, Units
from pipeline.pruning.unit_allocation import Counts, UnitRequest
from pipeline.pruning.unit_senses import CalibrationSenses


def remove_units(
    trained: Graph,
    method: importance.UnitImportance,
    goal: float | Budget,
    options: importance.UnitOptions,
    calibration: Samples | None,
    progress: Callable[[str], None],
    allocation: str,
    rules: Sequence[Rule],
    objective: Objective | None,
) -> tuple[Any, list[LayerDecision], dict[str, Units]]:
    """A copy of the model without what `goal` says, a share of its units or all that is above a budget, a decision for
    each layer, and of each layer that lost outputs which are left. Of `allocation` see `unit_allocation`.

    With `calibration`, model inputs, the layers that read the units are reconstructed; `objective` is what training
    lowers on these samples, for methods that need labels. Raises `ValueError`, before any unit is judged where that can
    be known, for a goal that cannot be met.
    """
    anatomy = Anatomy(trained)
    request = _request(trained, anatomy, goal, options.multiple, allocation, rules)
    sizes = {group.name: group.size for group in anatomy.groups}
    unit_allocation.staying(sizes, request, lambda name: np.zeros(sizes[name]))
    senses = CalibrationSenses(trained, anatomy, calibration, objective)
    judged = {group.name: method.scores(group, senses, options) for group in anatomy.groups}
    scores = {name: each for name, each in judged.items() if each is not None}
    counts = unit_allocation.staying({name: sizes[name] for name in scores}, request, scores.__getitem__)
    staying = {
        name: chosen(scores[name], counts[name]) if name in scores else np.arange(size)
        for name, size in sizes.items()
    }
    twin = _reconstructed(trained, anatomy, staying, calibration, options).cut(staying)
    account = Account(
        anatomy, staying, [name for name in sizes if name not in scores], options.multiple, request.terms
    )
    decisions = [account.decision(node, twin.get_layer(node.name)) for node in trained.layers()]
    for decision in decisions:
        progress(f"{decision.layer}: {decision.reason}")
    return twin, decisions, account.outputs()


def chosen(scores: NDArray[np.floating], count: int) -> Units:
    """The `count` units of the highest scores, sorted; of equal ones the later."""
    return np.flatnonzero(masks.by_count([scores], len(scores) - count)[0])


def _request(
    trained: Graph,
    anatomy: Anatomy,
    goal: float | Budget,
    multiple: int,
    allocation: str,
    rules: Sequence[Rule],
) -> UnitRequest:
    names = {
        group.name: [group.name, *(producer.layer for producer in group.producers)]
        for group in anatomy.groups
    }
    terms = terms_of_groups(rules, names, [node.name for node in trained.layers()])
    if not isinstance(goal, Budget):
        return UnitRequest(goal, allocation, multiple, terms)
    return UnitRequest(goal, allocation, multiple, terms, _cost_without(trained, anatomy, goal))


def _cost_without(trained: Graph, anatomy: Anatomy, budget: Budget) -> Callable[[Counts], int]:
    """What the model costs, in the budget's measure, without so many units of each group."""
    shapes = {
        node.name: [tuple(weight.shape) for weight in node.layer.get_weights()] for node in trained.layers()
    }
    sizes = Sizes(anatomy.flow, anatomy.groups, shapes)
    parameters, macs = trained.model.count_params(), 0
    times: dict[str, list[int]] = {}
    if budget.measure == "macs":
        macs = sum(multiply_accumulates(node) for node in trained.nodes.values())
        times = {layer: times_multiplied(trained.nodes[layer]) for layer, _ in sizes.freed({})}

    def costs(leaving: Counts) -> int:
        freed = sizes.freed(leaving)
        fewer = sum(times[layer][number] * count for (layer, number), count in freed.items()) if times else 0
        return cost(budget.measure, (), {}, Fixed(parameters - sum(freed.values()), macs - fewer))

    return costs


def _reconstructed(
    trained: Graph,
    anatomy: Anatomy,
    staying: Mapping[str, Units],
    calibration: Samples | None,
    options: importance.UnitOptions,
) -> Anatomy:
    """The anatomy of the model whose units that leave are read by nobody any more, the other weights making up."""
    if calibration is None:
        return anatomy
    gone: dict[str, NDArray[np.bool_]] = {}
    now = Graph(graph.copy(trained.model))
    for group in anatomy.groups:
        leaving = np.delete(np.arange(group.size), staying[group.name])
        for consumer in group.consumers if len(leaving) else ():
            layer = now.nodes[consumer.layer].layer
            weights = layer.get_weights()
            weights[consumer.index] = consumer.without(leaving, weights[consumer.index])
            layer.set_weights(weights)
            rows = gone.setdefault(consumer.layer, np.zeros(len(consumer.weight), bool))
            rows[consumer.rows[leaving]] = True
    reconstruct(trained, now, gone, calibration, options.damping)
    return Anatomy(now)

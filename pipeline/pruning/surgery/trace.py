"""The rules, run over a model: where its units flow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.models import graph
from pipeline.models.graph import Graph
from pipeline.pruning.surgery.flow import Flow, NotFollowedError, Site, tensors
from pipeline.pruning.surgery.rules import RULES


def trace(model: Graph) -> Flow:
    """Label the units of every tensor and weight; those of the model's inputs and outputs are pinned."""
    flow = Flow()
    known: dict[str, tuple[Mapping[str, Any], list[tuple[int, ...]]]] = {}
    for call in model.calls:
        node = model.nodes[call.node]
        if node.kind == "InputLayer":
            flow.leave_whole(call, f"The units are coupled with those of the model's input {call.node!r}.")
        elif call.node in flow.whole:
            flow.leave_whole(call, flow.whole[call.node])
        elif (why := graph.why_not_followed(node)) is not None:
            flow.leave_whole(call, f"The units feed {call.node!r}, which {why}.")
        else:
            if call.node not in known:
                weights = getattr(node.layer, "weights", ())
                known[call.node] = graph.settings(node.layer), [tuple(weight.shape) for weight in weights]
            config, shapes = known[call.node]
            _apply(Site(flow, call, node.kind, config, shapes))
    for tensor in model.outputs:
        flow.pin(tensor, "The units are an output of the model.")
    return flow


def _apply(site: Site) -> None:
    flow, call = site.flow, site.call
    try:
        if site.kind not in RULES:
            raise site.not_followed()
        RULES[site.kind](site)
    except NotFollowedError as reason:
        flow.leave_whole(call, str(reason))
        return
    for tensor in tensors(call.arguments):
        if tensor.key not in site.read:
            flow.pin(tensor, str(site.not_followed()))

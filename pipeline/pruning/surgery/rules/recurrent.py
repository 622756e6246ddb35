"""Recurrent layers: a unit leaves with its gates, its state, and what the others read of it a step later."""

from __future__ import annotations

import numpy as np

from pipeline.pruning.surgery.flow import NotFollowedError, Rule, Site, tensors
from pipeline.pruning.surgery.labels import Labels
from pipeline.pruning.surgery.rules import kernels
from pipeline.pruning.surgery.rules.unitwise import pin_mixed

GATES = {"SimpleRNN": 1, "GRU": 3, "LSTM": 4}


def recurrent(site: Site) -> None:
    """Every output, the last states too, has a layer's units along its last axis; so have the states it begins with."""
    units = site.units(site.config["units"])
    for tensor in tensors(site.call.arguments.get("initial_state")):
        site.couple(site.layout(tensor).labels, units)
    _cell(site, 0, site.last("sequences"), units)
    site.give(units)


def bidirectional(site: Site) -> None:
    """The i-th units of both directions leave together, so that either keeps as many."""
    directions = [site.within("layer"), site.within("backward_layer")]
    if any(each.kind not in GATES or each.config["return_state"] for each in directions) or list(
        tensors(site.call.arguments.get("initial_state"))
    ):
        raise site.not_followed()
    entering, units = site.last("sequences"), site.units(directions[0].config["units"])
    for number, each in enumerate(directions):
        _cell(each, number * len(site.shapes) // 2, entering, units)
    merged = site.config["merge_mode"]
    site.give(np.concatenate([units, units]) if merged == "concat" else units)


def time_distributed(site: Site) -> None:
    """The layer within, at every step."""
    inner = site.within("layer")
    if inner.kind not in ("Dense", "Conv1D", "Conv2D"):
        raise site.not_followed()
    kernels.RULES[inner.kind](inner)


def _cell(site: Site, first: int, entering: Labels, units: Labels) -> None:
    """Kernel (inputs, gates units), recurrent kernel (units, gates units), bias (gates units), or two of these."""
    pin_mixed(site, units)
    pin_mixed(site, units, "recurrent_activation")
    if site.config["stateful"]:
        raise NotFollowedError(f"{site.name!r} keeps its state from batch to batch.")
    gates = np.tile(units, GATES[site.kind])
    site.hold("consumes", first, 0, entering, rows=(0,))
    site.hold("produces", first, 1, gates)
    site.hold("consumes", first + 1, 0, units, rows=(0,))
    site.hold("produces", first + 1, 1, gates)
    if site.config["use_bias"]:
        site.hold("biases", first + 2, -1, gates)
    site.option("units", units)


RULES: dict[str, Rule] = {
    **dict.fromkeys(GATES, recurrent),
    "Bidirectional": bidirectional,
    "TimeDistributed": time_distributed,
}

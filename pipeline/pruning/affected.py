"""Which layers of a pruned model no longer do what they did as trained."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.models.graph import Graph


def affected(trained: Graph, now: Graph) -> set[str]:
    """The names of the layers whose weights are others by now, and of all that what they put out comes to.

    The others put out what they did as trained, to the bit. Both graphs have the same names.
    """
    found = {name for name, node in now.nodes.items() if _differ(trained.nodes[name].layer, node.layer)}
    while reached := {
        name for name, node in now.nodes.items() if name not in found and not found.isdisjoint(node.producers)
    }:
        found |= reached
    return found


def _differ(one: Any, other: Any) -> bool:
    # A bare operation has no weights.
    pairs = zip(getattr(one, "weights", ()), getattr(other, "weights", ()), strict=True)
    return not all(np.array_equal(mine, theirs) for mine, theirs in pairs)

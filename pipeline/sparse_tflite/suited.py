"""Sparse weights as they suit a runtime and a core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.sparse_tflite import runtimes
from pipeline.sparse_tflite.decide import BAD, DIRECT, Decision, choose, decide, gate
from pipeline.sparse_tflite.encode import OVERHEAD, stored_as, why_not
from pipeline.sparse_tflite.flatbuffer import damage_is_told
from pipeline.sparse_tflite.operators import Graph, read_graphs
from pipeline.sparse_tflite.runtimes import Runtime
from pipeline.sparse_tflite.storing import Choice, EncodingDecision, make_sparse
from pipeline.sparse_tflite.weights import Key, Reader
from targets.cores import Core

# A runtime by its name, and a kind of core; None where nobody knows it.
Suit = tuple[str, Core | None]


def make_suited(
    content: bytes, runtime: Runtime, core: Core, name: str = "model.tflite"
) -> tuple[bytes, list[EncodingDecision]]:
    """Rewrite a dense .tflite file with each tensor of weights stored as `decide` finds best, where that is smaller.

    What is written is looked at once more: where an operator of it would be wrong or not load that was well before,
    nothing goes behind DENSIFY, and if that is not enough, all stays dense.
    """
    with damage_is_told(name):
        graphs = read_graphs(content, name)
        wanted, before = choose(graphs, runtime, core), unwell(graphs, runtime, core)
        for densify in (True, False):
            sparse, decisions = make_sparse(content, name, _chooser(wanted, densify))
            if unwell(read_graphs(sparse, name), runtime, core) <= before:
                return sparse, decisions
    return make_sparse(content, name, _chooser({}, False))


def _chooser(wanted: dict[Key, Decision], densify: bool) -> Choice:
    def chosen(
        model: Any, key: Key, readers: list[Reader], values: np.ndarray | None
    ) -> tuple[str, int, str]:
        decision = wanted.get(key)
        if decision is None or values is None:
            return "dense", 0, "no rule of the runtime is about these weights; they are left as they are"
        if decision.encoding == "dense":
            return "dense", 0, decision.reason
        if decision.encoding not in DIRECT and not densify:
            return "dense", 0, "with weights behind DENSIFY, an operator of the model would answer wrongly"
        refused = why_not(model, key, readers, decision.encoding)
        if refused is not None:
            return "dense", 0, f"{refused}; its zeros are stored densely"
        size = stored_as(values, decision.encoding).nbytes
        if size + OVERHEAD[decision.encoding] >= values.nbytes:
            return "dense", 0, f"sparse storage would take {size:,} bytes, dense takes {values.nbytes:,}"
        return decision.encoding, size, f"{decision.outcome}: {decision.reason}"

    return chosen


def refuse_missing(content: bytes, name: str, suit: Suit) -> None:
    """Raise `UserError` where the runtime has not all operators of a file, each with the remedy: found here, and not
    by a device that was sent the file."""
    runtime = runtimes.load(suit[0])
    missing = {
        f"{found.reason}; {found.remedy}"
        for graph in read_graphs(content, name)
        for operator in graph.operators
        if (found := gate(operator, runtime, suit[1])) is not None
    }
    if missing:
        raise UserError(*(f"{name}: {each}" for each in sorted(missing)))


def unwell(graphs: Sequence[Graph], runtime: Runtime, core: Core) -> set[tuple[int, str]]:
    """The operators that would be wrong or not load, by graph and by what they write."""
    return {
        (at, operator.title)
        for at, graph in enumerate(graphs)
        for operator in graph.operators
        if decide(operator, runtime, core, operator.weights.encoding if operator.weights else "dense").outcome
        in BAD
    }

"""Bring a dense file inside the rules of sparse inference where that pays, by exact rewrites."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.sparse_tflite import rewrites, runtimes
from pipeline.sparse_tflite.decide import choose
from pipeline.sparse_tflite.operators import Graph, read_graphs
from pipeline.sparse_tflite.runtimes import Runtime
from pipeline.sparse_tflite.suited import Suit, unwell
from targets.cores import Core

NOTHING = "none would make more weights run sparse"


@dataclass(frozen=True)
class Rewritten:
    """A file with rewrites: how often each was applied (none: the file is as it was), and why, or why not."""

    content: bytes
    done: dict[str, int]
    reason: str


def make_eligible(
    dense: bytes,
    wanted: Literal["auto", "none"] | tuple[str, ...],
    suit: Suit | None,
    name: str = "model.tflite",
) -> Rewritten:
    """Apply the rewrites `wanted`. `auto` applies all there are where more weights then run sparse on the runtime and
    the core, and no operator is worse off; else, and where these are not known, the file stays as it is.
    """
    if wanted == "none":
        return Rewritten(dense, {}, "the plan asks for none")
    if wanted != "auto":
        content, counts = rewrites.rewrite(dense, wanted, name)
        return Rewritten(content, _applied(counts), "the plan asks for them")
    if suit is None or suit[1] is None:
        return Rewritten(dense, {}, "the runtime and the kind of core are not known")
    runtime, core = runtimes.load(suit[0]), suit[1]
    content, counts = rewrites.rewrite(dense, None, name)
    if not any(counts.values()):
        return Rewritten(dense, {}, NOTHING)
    graphs = [read_graphs(each, name) for each in (dense, content)]
    before, after = (_running_sparse(each, runtime, core) for each in graphs)
    if after <= before:
        return Rewritten(dense, {}, NOTHING)
    ill_before, ill_after = (len(unwell(each, runtime, core)) for each in graphs)
    if ill_after > ill_before:
        return Rewritten(dense, {}, "with them an operator would be wrong or not load")
    told = f"{after:,} weights then run sparse, {before:,} without them"
    return Rewritten(content, _applied(counts), told)


def _applied(counts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def _running_sparse(graphs: Sequence[Graph], runtime: Runtime, core: Core) -> int:
    """How many weights run sparse when each operator is stored as is best for it."""
    best = choose(graphs, runtime, core)
    sizes = {
        (at, operator.weights.number): operator.weights.size
        for at, graph in enumerate(graphs)
        for operator in graph.operators
        if operator.weights is not None
    }
    return sum(sizes[key] for key, decision in best.items() if decision.outcome == "runs sparse")

"""Lint: what a .tflite file does on a runtime and a core, operator by operator, and the change that would help."""

from __future__ import annotations

from collections import Counter

from pydantic import BaseModel, ConfigDict

from pipeline.sparse_tflite.decide import BAD, Decision, Outcome, decide, gate
from pipeline.sparse_tflite.flatbuffer import damage_is_told
from pipeline.sparse_tflite.operators import Operator, read_graphs
from pipeline.sparse_tflite.runtimes import Runtime
from pipeline.sparse_tflite.stored_weights import Encoding
from targets.cores import Core


class Finding(BaseModel):
    """One operator: what happens to it in the file as it is, why, and what would help."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    operator: str
    layer: str
    weights: int
    zeros: float
    encoding: Encoding
    outcome: Outcome
    reason: str
    remedy: str


class LintReport(BaseModel):
    """What lint found in a file for a runtime and a core; `graphs`: the operators of each subgraph in their order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    runtime: str
    core: Core
    graphs: tuple[tuple[Finding, ...], ...]

    @property
    def bad(self) -> list[Finding]:
        """The operators that would be wrong or do not load."""
        return [each for graph in self.graphs for each in graph if each.outcome in BAD]

    @property
    def sentence(self) -> str:
        """`3 run sparse, 5 run dense on ai-edge-litert 2.3 (arm)`, the worst first."""
        counts = Counter(each.outcome for graph in self.graphs for each in graph)
        order: tuple[Outcome, ...] = (*BAD, "runs sparse", "stored sparse for size only", "runs dense")
        told = [f"{outcome}: {counts[outcome]}" for outcome in order if counts[outcome]]
        return f"{self.file} on {self.runtime} ({self.core}): {', '.join(told) or 'no operators'}"


def lint(content: bytes, name: str, runtime: Runtime, core: Core) -> LintReport:
    """Look at every operator of a .tflite file; `name` names it in errors. Raises `UserError` for a damaged file."""
    graphs = read_graphs(content, name)
    with damage_is_told(name):
        findings = tuple(
            tuple(
                _finding(operator, runtime, core)
                for operator in graph.operators
                if not graph.unpacks(operator) or gate(operator, runtime, core)
            )
            for graph in graphs
        )
    return LintReport(file=name, runtime=runtime.title, core=core, graphs=findings)


def _finding(operator: Operator, runtime: Runtime, core: Core) -> Finding:
    weights = operator.weights
    found = decide(operator, runtime, core, weights.encoding if weights else "dense")
    reason, remedy = _advice(found, decide(operator, runtime, core))
    return Finding(
        operator=operator.kind,
        layer=operator.layer,
        weights=weights.size if weights else 0,
        zeros=weights.zeros if weights else 0.0,
        encoding=found.encoding,
        outcome=found.outcome,
        reason=reason,
        remedy=remedy,
    )


def _advice(found: Decision, best: Decision) -> tuple[str, str]:
    """What to say of an operator, given what would be best for it."""
    if found.outcome in BAD or found.outcome == "runs sparse":
        return found.reason, found.remedy
    if best.outcome == "runs sparse":
        stored = f"stored as {best.encoding}" if best.encoding != found.encoding else "with the others sparse"
        return found.reason, f"`edgepipe convert`: {stored} it would run sparse"
    # What stands in the way of the best encoding says more than that the file does not use it.
    return best.reason, best.remedy

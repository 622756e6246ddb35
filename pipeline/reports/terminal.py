"""Tables for the terminal: readable in 80 columns and without colour."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pipeline.comparison import (
    Comparison,
    LatencyChange,
    Pair,
    TargetComparison,
    VariantComparison,
)
from pipeline.measurement.gates import Gate
from pipeline.measurement.operators import Operators
from pipeline.measurement.statistics import Estimate
from pipeline.pruning.decision import LayerDecision
from pipeline.reports import notation
from pipeline.result import Result, TargetResult
from pipeline.sparse_tflite.lint import LintReport

STYLES = {0: "bold green", 1: "bold red", 3: "bold red"}
OUTCOMES = {"runs sparse": "bold green", "would be wrong": "bold red", "does not load": "bold red"}
LONGEST = 20
EMULATED = "EMULATED: no time and no memory figure of the real device"
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def summary(result: Result) -> RenderableType:
    """What a run found, target by target: the headline, and a table of the variants; the winner carries a `*`."""
    parts: list[RenderableType] = []
    if result.error:
        parts.append(_text(f"failed: {result.error}", "bold red"))
    for name, target in result.targets.items():
        parts.append(_heading(name, notation.outcome(target.exit_code), STYLES.get(target.exit_code, "")))
        if target.emulated:
            parts.append(_text(EMULATED, "yellow"))
        if target.summaries:
            parts.append(_variants(result, target))
        parts += _below(target)
    return Group(*parts)


def decisions_table(decisions: Iterable[LayerDecision]) -> Table:
    """What pruning did to each layer, and why."""
    table = _table("layer", "action", "weights", "why")
    for each in decisions:
        size = notation.before_after(each.weights_before, each.weights_after)
        if each.units_before is not None:
            size += f"\n{notation.before_after(each.units_before, each.units_after)} units"
        table.add_row(
            _text(f"{each.layer}\n{each.kind}"), _text(each.action), _text(size), _text(each.reason)
        )
    return table


def lint_tables(report: LintReport) -> RenderableType:
    """What becomes of each operator, a table a graph, and each change that would help, once."""
    parts: list[RenderableType] = []
    for findings in report.graphs:
        table = _table("operator", "stored", "outcome", "why")
        for each in findings:
            stored = f"{each.encoding}\n{each.zeros:.0%} zeros" if each.weights else "-"
            label = "size only" if each.outcome == "stored sparse for size only" else each.outcome
            outcome = _text(label, OUTCOMES.get(each.outcome, ""))
            table.add_row(_text(f"{each.operator}\n{each.layer}"), _text(stored), outcome, _text(each.reason))
        parts.append(table)
    remedies = dict.fromkeys(each.remedy for graph in report.graphs for each in graph if each.remedy)
    parts += [_text(f"would help: {remedy}") for remedy in remedies]
    parts.append(_text(report.sentence, "bold red" if report.bad else "bold"))
    return Group(*parts)


def comparison_table(comparison: Comparison) -> RenderableType:
    """Two runs side by side, a table a target, with every note."""
    parts: list[RenderableType] = [
        _text(f"before: {comparison.before}"),
        _text(f"after:  {comparison.after}"),
    ]
    for target in comparison.targets:
        parts.append(_heading(target.target))
        parts += [_text(note, "yellow") for note in target.notes]
        if target.variants:
            parts.append(_compared(target, comparison.metric))
    parts.append(
        Padding(Group(*(_text(f"note: {note}") for note in comparison.notes)), (1, 0, 0, 0), expand=False)
    )
    return Group(*parts)


def operators(found: Operators) -> RenderableType:
    """What ran by which kernels; where it was timed, a table of the longest."""
    parts: list[RenderableType] = [_text(sentence) for sentence in found.sentences]
    if found.account is None:
        return Group(*parts)
    table = _table("operator or kernel", "of", "ms", "share", right=("ms", "share"))
    for row in found.rows[:LONGEST]:
        figures = notation.milliseconds(row.ns / 1e6), notation.share(row.share)
        table.add_row(_text(row.name), _text(row.where), *map(_text, figures))
    if len(found.rows) > LONGEST:
        parts.append(_text(f"the {LONGEST} longest of {len(found.rows)}:"))
    return Group(*parts, table, _text(found.account))


def _variants(result: Result, target: TargetResult) -> Table:
    mark = "\nemulated" if target.emulated else ""
    metric = result.model.metric if result.model else "metric"
    columns = ("file", f"p50 ms{mark}", f"p90 ms{mark}", f"memory{mark}", metric)
    table = _table("variant", *columns, "gates", right=columns)
    for name, found in target.summaries.items():
        file = target.encoded.variants.get(name) if target.encoded else None
        wins = target.winner is not None and target.winner.variant == name
        table.add_row(
            _text(f"{'*' if wins else ' '} {name}"),
            _text(notation.size(file.bytes) if file else "unknown"),
            _text(_with_interval(found.p50_ms)),
            _text(notation.milliseconds(found.p90_ms.value)),
            _text(notation.size(found.peak_memory_bytes)),
            _text(notation.score(found.metric)),
            _text(_gates(target.gates.get(name))),
            style="bold" if wins else "",
        )
    return table


def _gates(gates: tuple[Gate, ...] | None) -> str:
    if gates is None:
        return "-"
    if any(not (gate.passed or gate.advisory) for gate in gates):
        return "FAILED"
    return "passed" if all(gate.passed for gate in gates) else "advisory"


def _below(target: TargetResult) -> list[RenderableType]:
    lines = [
        f"{variant}: {gate.sentence}"
        for variant, row in target.gates.items()
        for gate in row
        if not gate.passed
    ]
    lines += [
        f"{variant}: {sentence}"
        for variant, found in target.summaries.items()
        for sentence in found.sentences
    ]
    if target.validity is not None and target.validity.state != "valid":
        lines += [f"measurement {target.validity.state}: {reason}" for reason in target.validity.reasons]
    lines += [
        f"{variant}: {sentence}"
        for variant, found in target.operators.items()
        if target.winner is None or variant == target.winner.variant
        for sentence in found.sentences
    ]
    lines += [
        f"{variant}: {found.sentence}" for variant, found in target.beside_host.items() if found.differing
    ]
    lines += [
        f"an invalid session came before this one, kept and not compared: {each.validity.reasons[0]}"
        for each in target.invalid_sessions
    ]
    if target.encoded is not None and target.encoded.rewrites:
        done = ", ".join(f"{name} ({count})" for name, count in target.encoded.rewrites.items())
        lines.append(f"exact rewrites: {done}; {target.encoded.rewrites_reason}")
    if target.winner is not None:
        lines.append(f"* winner: {target.winner.variant}")
    if target.installed is not None:
        lines.append(f"installed at {target.installed.path}")
    parts: list[RenderableType] = [_text(line) for line in lines]
    parts.append(_text(target.headline, "bold"))
    if target.error and target.error not in target.headline:
        parts.append(_text(f"error: {target.error}", "red"))
    return parts


def _compared(target: TargetComparison, metric: str) -> Table:
    mark = "\nemulated" if target.emulated else ""
    table = _table("variant", "", "before", "after", "change", right=("before", "after"))
    for each in target.variants:
        for at, (title, before, after, change) in enumerate(_lines(each, metric, mark)):
            table.add_row(_text(each.variant if at == 0 else ""), *map(_text, (title, before, after, change)))
        table.add_section()
    return table


def _lines(each: VariantComparison, metric: str, mark: str) -> list[tuple[str, str, str, str]]:
    return [
        (f"p50 ms{mark}", *_latency(each.p50_ms), f"only {each.only}" if each.only else _change(each.p50_ms)),
        (f"p90 ms{mark}", *_latency(each.p90_ms), "" if each.only else _change(each.p90_ms)),
        ("file", *_pair(each.file_bytes, bytes_=True), ""),
        (f"memory{mark}", *_pair(each.peak_memory_bytes, bytes_=True), ""),
        (metric, *_pair(each.metric, bytes_=False), ""),
    ]


def _latency(change: LatencyChange) -> tuple[str, str]:
    before, after = (_with_interval(one) if one else "none" for one in (change.before, change.after))
    return before, after


def _pair(pair: Pair, *, bytes_: bool) -> tuple[str, str]:
    before, after = (
        "none" if one is None else notation.size(one) if bytes_ else notation.score(one)
        for one in (pair.before, pair.after)
    )
    return before, after


def _change(change: LatencyChange) -> str:
    if change.ratio is None:
        return "not comparable"
    words = {True: "intervals overlap", False: "intervals do not overlap", None: "no intervals"}
    return f"{change.ratio:.3f}x\n{words[change.overlap]}"


def _with_interval(estimate: Estimate) -> str:
    return f"{notation.milliseconds(estimate.value)}\n{notation.interval(estimate)}"


def _heading(name: str, outcome: str = "", style: str = "") -> RenderableType:
    text = _text(name, "bold underline")
    if outcome:
        text = Text.assemble(text, ": ", _text(outcome, style))
    return Padding(text, (1, 0, 0, 0), expand=False)


def _table(*columns: str, right: Sequence[str] = ()) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(_text(column), overflow="fold", justify="right" if column in right else "left")
    return table


def _text(value: str, style: str = "") -> Text:
    """Text that is no markup; control characters, which could drive the terminal, become visible."""
    return Text(CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", value), style=style)

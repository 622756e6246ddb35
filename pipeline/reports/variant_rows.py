"""The variants side by side: a row a figure, a cell a variant, every cell already in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.measurement.statistics import Estimate, Summary
from pipeline.reports import notation
from pipeline.result import Result, TargetResult


@dataclass(frozen=True)
class Row:
    """`cells` are (figure, interval or empty), in the order of the target's summaries.

    `absolute`: a time or memory figure, which an emulated device tells nothing of.
    """

    title: str
    cells: tuple[tuple[str, str], ...]
    absolute: bool


def rows(result: Result, target: TargetResult) -> list[Row]:
    """The rows of the page's table of variants."""

    def row(title: str, cell: Callable[[str, Summary], str], absolute: bool = True) -> Row:
        return Row(title, tuple((cell(*each), "") for each in target.summaries.items()), absolute)

    def percentile(title: str, estimate: Callable[[Summary], Estimate | None]) -> Row:
        found = [estimate(summary) for summary in target.summaries.values()]
        cells = (
            (notation.milliseconds(one.value), notation.interval(one)) if one else ("", "") for one in found
        )
        return Row(title, tuple(cells), True)

    metric = result.model.metric if result.model else "metric"
    return [
        row("file, bytes", lambda name, _: file_bytes(target, name), absolute=False),
        percentile("latency p50", lambda summary: summary.p50_ms),
        percentile("latency p90", lambda summary: summary.p90_ms),
        percentile("latency p95", lambda summary: summary.p95_ms),
        percentile("latency p99", lambda summary: summary.p99_ms),
        percentile("latency p99.9", lambda summary: summary.p999_ms),
        row("latency, least", lambda _, summary: notation.milliseconds(summary.minimum_ms)),
        row("loading", lambda _, summary: notation.milliseconds(summary.load_ms)),
        row("first inference", lambda _, summary: notation.milliseconds(summary.first_ms)),
        row("memory, at most", lambda _, summary: notation.size(summary.peak_memory_bytes)),
        row("memory, steady", lambda _, summary: notation.size(summary.steady_memory_bytes)),
        row("whole process, at most", lambda _, summary: notation.size(summary.process_peak_bytes)),
        row(f"{metric} on the device", lambda _, summary: notation.score(summary.metric), absolute=False),
        row("samples", lambda _, summary: f"{summary.samples:,}", absolute=False),
    ]


def file_bytes(target: TargetResult, variant: str) -> str:
    """The size of a variant's file, in full."""
    file = target.encoded.variants.get(variant) if target.encoded else None
    return f"{file.bytes:,}" if file else "unknown"

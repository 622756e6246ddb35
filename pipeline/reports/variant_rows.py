"""The variants side by side: a row a figure, a cell a variant, every cell already in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.measurement.cold import Cold
from pipeline.measurement.deadlines import Deadlines
from pipeline.measurement.endurance import Endurance
from pipeline.measurement.energy import MeterFigures
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

    paced = all(summary.deadlines for summary in target.summaries.values())
    lasting = all(summary.endurance for summary in target.summaries.values())
    metric = result.model.metric if result.model else "metric"
    return [
        row("file, bytes", lambda name, _: file_bytes(target, name), absolute=False),
        percentile("latency p50", lambda summary: summary.p50_ms),
        percentile("latency p90", lambda summary: summary.p90_ms),
        percentile("latency p95", lambda summary: summary.p95_ms),
        percentile("latency p99", lambda summary: summary.p99_ms),
        percentile("latency p99.9", lambda summary: summary.p999_ms),
        row("latency, least", lambda _, summary: notation.milliseconds(summary.minimum_ms)),
        *(_deadlines(row) if paced else ()),
        *(_endurance(row) if lasting else ()),
        *_energy(row, target),
        row("loading", lambda _, summary: notation.milliseconds(summary.load_ms)),
        row("first inference", lambda _, summary: notation.milliseconds(summary.first_ms)),
        *(_cold(row) if any(summary.cold for summary in target.summaries.values()) else ()),
        row("memory, at most", lambda _, summary: notation.size(summary.peak_memory_bytes)),
        row("memory, steady", lambda _, summary: notation.size(summary.steady_memory_bytes)),
        row("whole process, at most", lambda _, summary: notation.size(summary.process_peak_bytes)),
        row(f"{metric} on the device", lambda _, summary: notation.score(summary.metric), absolute=False),
        row("samples", lambda _, summary: f"{summary.samples:,}", absolute=False),
    ]


def _cold(row: Callable[[str, Callable[[str, Summary], str]], Row]) -> Iterator[Row]:
    """Of a model loaded from storage."""

    def figure(title: str, value: Callable[[Cold], float | None]) -> Row:
        def cell(_: str, summary: Summary) -> str:
            found = value(summary.cold) if summary.cold else None
            return "unknown" if found is None else notation.milliseconds(found)

        return row(title, cell)

    yield figure("loading, file not in the page cache", lambda found: found.load_ms)
    yield figure("first inference after that", lambda found: found.first_ms)


def _deadlines(row: Callable[[str, Callable[[str, Summary], str]], Row]) -> Iterator[Row]:
    """Of a model invoked at a fixed rate."""

    def figure(title: str, value: Callable[[Deadlines], str]) -> Row:
        return row(title, lambda _, summary: value(summary.deadlines) if summary.deadlines else "")

    yield figure("deadlines missed", lambda found: f"{found.misses:,} of {found.releases:,}")
    yield figure("missed in a row, at most", lambda found: f"{found.longest_streak:,}")
    yield figure("from release to start, p50", lambda found: notation.milliseconds(found.jitter.p50))
    yield figure("from release to start, p99", lambda found: notation.milliseconds(found.jitter.p99))
    yield figure("from release to start, at most", lambda found: notation.milliseconds(found.jitter.greatest))
    yield figure("from release to end, p50", lambda found: notation.milliseconds(found.response.p50))
    yield figure("from release to end, p99", lambda found: notation.milliseconds(found.response.p99))
    yield figure("from release to end, at most", lambda found: notation.milliseconds(found.response.greatest))


def _endurance(row: Callable[[str, Callable[[str, Summary], str]], Row]) -> Iterator[Row]:
    """Of a model invoked back to back for long."""

    def figure(title: str, value: Callable[[Endurance], str]) -> Row:
        return row(title, lambda _, summary: value(summary.endurance) if summary.endurance else "")

    yield figure("back to back, first quarter", lambda found: notation.milliseconds(found.first_ms))
    yield figure("back to back, last quarter", lambda found: notation.milliseconds(found.last_ms))
    yield figure("back to back, change", lambda found: f"{found.change:+.1%}")


def _energy(row: Callable[[str, Callable[[str, Summary], str]], Row], target: TargetResult) -> Iterator[Row]:
    """Of a model that was run beside the device's meters."""
    summaries = target.summaries.values()
    found = {each.meter: each for one in summaries if one.energy for each in one.energy.meters}

    def figure(title: str, meter: str, value: Callable[[MeterFigures], float | None]) -> Row:
        def cell(_: str, summary: Summary) -> str:
            known = {each.meter: value(each) for each in (summary.energy.meters if summary.energy else ())}
            joules = known.get(meter)
            return "unknown" if joules is None else f"{joules * 1e3:.3g} mJ"

        return row(title, cell)

    for name, one in found.items():
        title = f"energy an inference by {name} (leaves out: {one.leaves_out})"
        yield figure(title, name, lambda each: each.joules)
        yield figure(f"above rest, by {name}", name, lambda each: each.joules_above_idle)


def file_bytes(target: TargetResult, variant: str) -> str:
    """The size of a variant's file, in full."""
    file = target.encoded.variants.get(variant) if target.encoded else None
    return f"{file.bytes:,}" if file else "unknown"

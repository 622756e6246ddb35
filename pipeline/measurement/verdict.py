"""Verdicts: what was gained or lost against the baseline, metric by metric."""

from __future__ import annotations

from typing import Literal

from pipeline.measurement.measurement import Measurement, Record
from pipeline.measurement.statistics import Estimate, Summary, ratio
from pipeline.models.metrics import Direction, worsening

WIDEST = 0.25
# Processes that run one and the same file differ by some pages.
MEMORY_NOISE_BYTES = 64 << 10


class Verdict(Record):
    """The winner against the baseline in one respect: `change` is a ratio, or for the model's metric a difference."""

    metric: str
    baseline: float | None
    value: float | None
    change: Estimate | None
    outcome: Literal["pass", "regressed", "unstable", "missing"]


def against_baseline(
    measurements: dict[str, Measurement],
    summaries: dict[str, Summary],
    file_bytes: dict[str, int],
    variant: str,
    metric: str,
    direction: Direction,
) -> tuple[Verdict, ...]:
    """Latency, memory, file size and the model's metric of `variant` beside those of the baseline."""
    base, mine = summaries["baseline"], summaries[variant]
    return (
        _latency(measurements[variant], measurements["baseline"], mine, base),
        _exact("peak_memory_bytes", base.peak_memory_bytes, mine.peak_memory_bytes, MEMORY_NOISE_BYTES),
        _exact("file_bytes", file_bytes["baseline"], file_bytes[variant]),
        _metric(metric, direction, base.metric, mine.metric),
    )


def _latency(variant: Measurement, baseline: Measurement, mine: Summary, base: Summary) -> Verdict:
    change = ratio(variant, baseline)
    outcome: Literal["pass", "regressed", "unstable"] = "pass"
    if change.low is None or change.high is None or change.high - change.low > WIDEST * change.value:
        outcome = "unstable"
    elif change.low > 1:
        outcome = "regressed"
    return Verdict(
        metric="p50_ms", baseline=base.p50_ms.value, value=mine.p50_ms.value, change=change, outcome=outcome
    )


def _exact(metric: str, baseline: int, value: int, noise: int = 0) -> Verdict:
    change = Estimate(value=value / baseline, low=None, high=None) if baseline else None
    return Verdict(
        metric=metric,
        baseline=baseline,
        value=value,
        change=change,
        outcome="regressed" if value > baseline + noise else "pass",
    )


def _metric(metric: str, direction: Direction, baseline: float | None, value: float | None) -> Verdict:
    if baseline is None or value is None:
        return Verdict(metric=metric, baseline=baseline, value=value, change=None, outcome="missing")
    worse = worsening(direction, baseline, value)
    change = Estimate(value=value - baseline, low=None, high=None)
    return Verdict(
        metric=metric,
        baseline=baseline,
        value=value,
        change=change,
        outcome="regressed" if worse > 0 else "pass",
    )

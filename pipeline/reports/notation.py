"""How figures are written for people: times, sizes, shares, intervals and changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.measurement.agreement import Agreement
from pipeline.measurement.statistics import Estimate
from pipeline.measurement.verdict import Verdict

RESPECTS = {"p50_ms": "median latency", "peak_memory_bytes": "memory, at most", "file_bytes": "file size"}
OUTCOMES = {0: "passed", 1: "failed", 3: "no evidence"}


def milliseconds(value: float) -> str:
    """`0.0312`, `1.234`, `12.35`, `1,234.6`: without the unit."""
    decimals = next((places for least, places in ((100, 1), (10, 2), (1, 3)) if value >= least), 4)
    return f"{value:,.{decimals}f}"


def size(value: float) -> str:
    """`512 B`, `12.1 KiB`, `3.42 MiB`."""
    if value < 1024:
        return f"{value:,.0f} B"
    if value < 1024**2:
        return f"{value / 1024:,.1f} KiB"
    return f"{value / 1024**2:,.2f} MiB"


def score(value: float | None) -> str:
    """A value of the model's metric."""
    return "none" if value is None else f"{value:.4g}"


def interval(estimate: Estimate) -> str:
    """`[1.200, 1.300]` in milliseconds."""
    if estimate.low is None or estimate.high is None:
        return "[no interval]"
    return f"[{milliseconds(estimate.low)}, {milliseconds(estimate.high)}]"


def times(estimate: Estimate) -> str:
    """A ratio and its interval where there is one: `0.512x [0.500, 0.520]`."""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}x"
    return f"{estimate.value:.3f}x [{estimate.low:.3f}, {estimate.high:.3f}]"


def respect(verdict: Verdict) -> str:
    """What a verdict is about, in words."""
    return RESPECTS.get(verdict.metric, verdict.metric)


def amount(value: float | None, metric: str) -> str:
    """One side of a verdict, with its unit."""
    if value is None:
        return "none"
    if metric == "p50_ms":
        return f"{milliseconds(value)} ms"
    return size(value) if metric in RESPECTS else score(value)


def change(verdict: Verdict) -> str:
    """A verdict's change: a ratio, or for the model's metric a difference."""
    if verdict.change is None:
        return "none"
    return times(verdict.change) if verdict.metric in RESPECTS else f"{verdict.change.value:+.4g}"


def gate_amount(value: float | None, unit: str) -> str:
    """A gate's value or limit, with its unit; bytes in full, for a limit may be missed by one."""
    if value is None:
        return "no value"
    return {"ms": f"{milliseconds(value)} ms", "bytes": f"{value:,.0f} bytes"}.get(
        unit, f"{value:.4g} {unit}".rstrip()
    )


def share(value: float) -> str:
    """`12.3 %`."""
    return f"{100 * value:.1f} %"


def before_after(before: int | None, after: int | None) -> str:
    """`6,400 -> 1,280`, or the one number when nothing changed."""
    if before is None or after is None:
        return ""
    return f"{before:,}" if before == after else f"{before:,} -> {after:,}"


def agreement(found: Agreement) -> str:
    """`agree: 1.2e-07 of the greatest output apart, limit 0.0001, on 360 inputs`."""
    word = "agree" if found.agrees else "DISAGREE"
    if found.greatest_difference is None:
        return f"{word}: an output is not a finite number, on {found.samples} inputs"
    apart = f"{found.greatest_difference:.2g} of the greatest output apart"
    return f"{word}: {apart}, limit {found.limit:g}, on {found.samples} inputs"


def outcome(exit_code: int) -> str:
    """How a target or a run ended."""
    return OUTCOMES.get(exit_code, f"exit code {exit_code}")


def plain(value: Any) -> str:
    """A value of an environment or a fingerprint."""
    if value is None or value == {} or value == []:
        return "not told"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested values as `cpu.model`: value."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", plain(value)


def ratio_as_change(estimate: Estimate) -> str:
    """A ratio as a change: `+2.1 % [+1.9 %, +2.4 %]`."""
    value, low, high = (
        None if each is None else f"{100 * (each - 1):+.2f} %"
        for each in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} [{low}, {high}]" if low and high else f"{value}"


def instant(text: str | None) -> str:
    """`2026-01-31 02:00` of `2026-01-31T02:00:00Z`."""
    return "never" if text is None else text[:16].replace("T", " ")

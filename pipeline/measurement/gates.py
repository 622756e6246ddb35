"""Gates: the limits a variant must hold to be installed."""

from __future__ import annotations

from pipeline.measurement.measurement import Record
from pipeline.measurement.statistics import Summary
from pipeline.models.metrics import Direction, worsening
from pipeline.plan import GatesSection

ROUNDING = 1e-9


class Gate(Record):
    """A limit, the value it was held against, and how it ended; an advisory gate fails nothing."""

    name: str
    limit: float
    value: float | None
    unit: str
    passed: bool
    advisory: bool

    @property
    def sentence(self) -> str:
        """`max_file_bytes: 12,345 bytes, limit 10,000: failed by 2,345`."""
        if self.value is None:
            return f"{self.name}: no value, limit {_figure(self.limit, self.unit)}: failed"
        outcome = "passed" if self.passed else f"failed by {_figure(self.value - self.limit, self.unit)}"
        note = " (advisory: taken on an emulated device)" if self.advisory else ""
        return f"{self.name}: {_figure(self.value, self.unit)}, limit {_figure(self.limit, self.unit)}: {outcome}{note}"


def hold(
    limits: GatesSection,
    summary: Summary,
    baseline: Summary,
    file_bytes: int,
    direction: Direction,
    emulated: bool,
) -> tuple[Gate, ...]:
    """Hold one variant against every limit the plan sets; absolute figures of an emulated device are advisory."""
    advisory = emulated and not limits.emulated_counts
    gates = []

    def add(name: str, limit: float | None, value: float | None, unit: str, advisory: bool = False) -> None:
        if limit is not None:
            # A drop of 9 in 450 samples is 0.02, but seldom so as a difference of two floats.
            passed = value is not None and value <= limit + ROUNDING * max(1.0, abs(limit))
            gates.append(
                Gate(name=name, limit=limit, value=value, unit=unit, passed=passed, advisory=advisory)
            )

    drop = None
    if baseline.metric is not None and summary.metric is not None:
        drop = worsening(direction, baseline.metric, summary.metric)
    add("max_metric_drop", limits.max_metric_drop, drop, "")
    for share in ("p50", "p90", "p99"):
        value = getattr(summary, f"{share}_ms").value
        add(f"max_latency_ms.{share}", getattr(limits.max_latency_ms, share), value, "ms", advisory)
    missed = summary.deadlines.miss_share if summary.deadlines else None
    add("max_deadline_misses", limits.max_deadline_misses, missed, "", advisory)
    add("max_file_bytes", limits.max_file_bytes, file_bytes, "bytes")
    add("max_memory_bytes", limits.max_memory_bytes, summary.peak_memory_bytes, "bytes", advisory)
    return tuple(gates)


def _figure(value: float, unit: str) -> str:
    text = f"{value:,.0f}" if unit == "bytes" else f"{value:.4g}"
    return f"{text} {unit}".rstrip()

"""Two runs side by side: what both measured, and where setting one against the other would mislead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pipeline.measurement.measurement import Record
from pipeline.measurement.statistics import Estimate, Summary
from pipeline.result import Result, TargetResult

SESSIONS = (
    "the two runs were not interleaved: the devices may have changed in between. Intervals that do not overlap say that"
    " the sessions differ, not that the model is the cause"
)
IDENTITY = (
    "board",
    "identity",
    "machine",
    "cores",
    "usable_cores",
    "governors",
    "userland_bits",
    "libc",
    "kernel",
    "firmware",
    "python",
)
VERSIONS = ("numpy", "runtime", "runtime_version")

LONGEST = 80

Side = Literal["before", "after"]


class LatencyChange(Record):
    """A percentile of the latency in milliseconds; `ratio` is after over before, null where they do not compare."""

    before: Estimate | None
    after: Estimate | None
    ratio: float | None
    overlap: bool | None


class Pair(Record):
    """A figure without an interval, before and after."""

    before: float | None
    after: float | None


class VariantComparison(Record):
    """One variant on one device; `only` names the run in which alone it was measured."""

    variant: str
    only: Side | None
    p50_ms: LatencyChange
    p90_ms: LatencyChange
    file_bytes: Pair
    peak_memory_bytes: Pair
    metric: Pair


class TargetComparison(Record):
    """One device; where times and memory are `not comparable`, the notes say why."""

    target: str
    emulated: bool
    comparable: bool
    notes: tuple[str, ...]
    variants: tuple[VariantComparison, ...]


class Comparison(Record):
    """Two runs, named by their ids."""

    before: str
    after: str
    metric: str
    notes: tuple[str, ...]
    targets: tuple[TargetComparison, ...]


def compare(before: Result, after: Result) -> Comparison:
    """Set `after` against `before`, target by target and variant by variant; what exists on one side only is said."""
    names = list(dict.fromkeys([*before.targets, *after.targets]))
    notes = [SESSIONS]
    if before.id == after.id:
        notes.insert(0, "both are the same run")
    metrics = {run.model.metric for run in (before, after) if run.model}
    if len(metrics) > 1:
        notes.append(f"the metrics differ, their values do not compare: {' and '.join(sorted(metrics))}")
    if before.plan.get("measure") != after.plan.get("measure"):
        notes.append("the measuring protocols differ (measure: in the plan)")
    return Comparison(
        before=before.id,
        after=after.id,
        metric="metric" if len(metrics) != 1 else metrics.pop(),
        notes=tuple(notes),
        targets=tuple(_target(name, before, after) for name in names),
    )


def _target(name: str, before: Result, after: Result) -> TargetComparison:
    old, new = before.targets.get(name), after.targets.get(name)
    differing = _differences(old, new)
    notes = [f"not comparable: {', '.join(differing)}"] if differing else []
    emulated = any(target is not None and target.emulated for target in (old, new))
    if emulated:
        notes.append("emulated: these are no times and no memory figures of the real device")
    notes += _doubts("before", old) + _doubts("after", new)
    both = [target.summaries if target else {} for target in (old, new)]
    variants = list(dict.fromkeys([*both[0], *both[1]]))
    return TargetComparison(
        target=name,
        emulated=emulated,
        comparable=bool(both[0] and both[1]) and not differing,
        notes=tuple(notes),
        variants=tuple(
            _variant(variant, [each.get(variant) for each in both], _sizes(variant, old, new), not differing)
            for variant in variants
        ),
    )


def _doubts(side: Side, target: TargetResult | None) -> list[str]:
    if target is None:
        return [f"{side}: this target was not in the run"]
    if not target.summaries:
        return [f"{side}: no figures: {target.headline}"]
    if target.validity is not None and target.validity.state != "valid":
        return [f"{side}: the measurement is {target.validity.state}: {'; '.join(target.validity.reasons)}"]
    return []


def _variant(
    name: str, summaries: list[Summary | None], sizes: list[float | None], comparable: bool
) -> VariantComparison:
    old, new = summaries
    return VariantComparison(
        variant=name,
        only="before" if new is None else "after" if old is None else None,
        p50_ms=_latency(old.p50_ms if old else None, new.p50_ms if new else None, comparable),
        p90_ms=_latency(old.p90_ms if old else None, new.p90_ms if new else None, comparable),
        file_bytes=Pair(before=sizes[0], after=sizes[1]),
        peak_memory_bytes=Pair(
            before=old.peak_memory_bytes if old else None, after=new.peak_memory_bytes if new else None
        ),
        metric=Pair(before=old.metric if old else None, after=new.metric if new else None),
    )


def _latency(before: Estimate | None, after: Estimate | None, comparable: bool) -> LatencyChange:
    ratio = overlap = None
    if comparable and before is not None and after is not None:
        ratio = after.value / before.value
        ends = (before.low, before.high, after.low, after.high)
        if not any(end is None for end in ends):
            low, high, other_low, other_high = (float(end) for end in ends if end is not None)
            overlap = low <= other_high and other_low <= high
    return LatencyChange(before=before, after=after, ratio=ratio, overlap=overlap)


def _sizes(variant: str, before: TargetResult | None, after: TargetResult | None) -> list[float | None]:
    files = [
        target.encoded.variants.get(variant) if target and target.encoded else None
        for target in (before, after)
    ]
    return [file.bytes if file else None for file in files]


def _differences(before: TargetResult | None, after: TargetResult | None) -> list[str]:
    """What keeps two sessions from being compared: another device, system, runtime or number of threads."""
    if before is None or after is None or not (before.measurements and after.measurements):
        return []
    old, new = fingerprint(before), fingerprint(after)
    return [
        f"{key} was {_told(old.get(key))}, is {_told(new.get(key))}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    ]


def fingerprint(target: TargetResult) -> dict[str, Any]:
    """What must be the same where times are compared: the device and its system, the runtime and its threads."""
    state: Mapping[str, Any] = target.environment.get("before") or {}
    found: dict[str, Any] = {"emulated": target.emulated, "runtime": target.runtime}
    found |= {key: state.get(key) for key in IDENTITY}
    found |= {f"cpu {key}": value for key, value in (state.get("cpu") or {}).items()}
    repetitions = [each for measurement in target.measurements.values() for each in measurement.repetitions]
    found["threads"] = sorted({repetition.threads for repetition in repetitions})
    for key in VERSIONS:
        found[f"{key} on the device"] = sorted(
            {str(repetition.versions.get(key)) for repetition in repetitions}
        )
    return found


def _told(value: Any) -> str:
    if value is None or value in ({}, []):
        return "not told"
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."

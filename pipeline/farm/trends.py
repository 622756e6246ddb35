"""The nights of a series, out of the history: what each was, where its level changed, and where another begins."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from sqlalchemy import Connection, Row, select

from pipeline.farm.case import VARIANTS, WINDOW
from pipeline.history.read import medians_of
from pipeline.history.record import measurement_id
from pipeline.history.tables import measurements
from pipeline.measurement.alarms import SUSPECT_OVER_NIGHTS
from pipeline.measurement.change_points import change_points
from pipeline.measurement.error_rates import ENOUGH, between_sessions
from pipeline.measurement.measurement import Record
from pipeline.measurement.pairs import paired_test
from pipeline.measurement.statistics import Estimate

# What a segment is of: one identity of the device, one baseline, one canary (see `past.Wanted`).
Key = tuple[str, str, str]
Logs = Mapping[str, np.ndarray]


class TrendPoint(Record):
    """One night. `medians_ms` by variant; `change` is candidate over baseline, without an interval where the raw
    samples were pruned; `over_canary` is candidate over canary and `level` its mean between two steps, all ratios; null
    where the session was not valid or not whole.
    """

    run: str
    started: str
    validity: str | None
    medians_ms: dict[str, float]
    change: Estimate | None = None
    over_canary: float | None = None
    level: float | None = None
    metric: dict[str, float] = {}
    peak_memory_bytes: float | None = None
    file_bytes: float | None = None


class Step(Record):
    """From the point `at` on the level is another: by the share `change`, which chance shows with probability `p`. `of`
    the candidate beside the canary, or of the device itself, which the canary shows."""

    at: int
    of: Literal["candidate", "device"]
    change: float
    p: float


class Break(Record):
    """From the point `at` on the figures are of another segment, and not held against those before; `why`, in words."""

    at: int
    why: str


class Trend(Record):
    """A plan on a target, the oldest night first; `metric` is the name of the model's."""

    plan: str
    target: str
    emulated: bool
    metric: str | None
    points: tuple[TrendPoint, ...]
    steps: tuple[Step, ...]
    breaks: tuple[Break, ...]


def trend(connection: Connection, plan: str, target: str, until: str, nights: int = WINDOW) -> Trend:
    """The last `nights` nights of a plan on a target that began no later than the instant `until`."""
    # What was known of the device in the first of them is from those before.
    runs = _runs(connection, plan, target, until)[-(nights + WINDOW) :]
    unseen = max(0, len(runs) - nights)
    found = medians_of(connection, [row.id for run in runs for row in run.values()])
    logs = [_logs(run, found) for run in runs]
    counted = [at for at, run in enumerate(runs) if _counts(run)]
    points = [_point(run) for run in runs]
    steps: list[Step] = []
    segments: dict[Key, list[int]] = defaultdict(list)
    for at in counted:
        if logs[at] is not None:
            segments[_key(runs[at])].append(at)
    for at_nights in segments.values():
        whole = [each for at in at_nights if (each := logs[at]) is not None]
        changes, (levels, more) = _changes(whole), _steps(whole, at_nights)
        for at, change, level, each in zip(at_nights, changes, levels, whole, strict=True):
            ratio = float(np.exp((each["candidate"] - each["canary"]).mean()))
            points[at] = points[at].model_copy(
                update={"change": change, "over_canary": ratio, "level": level}
            )
        steps += more
    latest = next(iter(runs[-1].values())) if runs else None
    return Trend(
        plan=plan,
        target=target,
        emulated=bool(latest is not None and latest.emulated),
        metric=latest.metric_name if latest is not None else None,
        points=tuple(points[unseen:]),
        steps=tuple(
            step.model_copy(update={"at": step.at - unseen})
            for step in sorted(steps, key=lambda step: (step.at, step.of))
            if step.at > unseen
        ),
        breaks=tuple(
            Break(at=after - unseen, why=_why(runs[before], runs[after]))
            for before, after in itertools.pairwise(counted)
            if after > unseen and _key(runs[before]) != _key(runs[after])
        ),
    )


def _runs(connection: Connection, plan: str, target: str, until: str) -> list[dict[str, Row[Any]]]:
    """The rows of each night by variant, in the order of time."""
    table = measurements.c
    query = (
        select(measurements)
        .where(table.plan == plan, table.target == target, table.variant.in_(VARIANTS))
        .where(table.started <= until)
        .order_by(table.started, table.run)
    )
    runs: dict[str, list[Row[Any]]] = defaultdict(list)
    for row in connection.execute(query):
        runs[row.run].append(row)
    # A deploy measures a baseline, too, and is no night.
    return [night for rows in runs.values() if "candidate" in (night := _session(rows))]


def _session(rows: Sequence[Row[Any]]) -> dict[str, Row[Any]]:
    """Of a run's rows those of the session that counts; where it has no candidate, of the last that was taken again."""
    for number in ((), *((number,) for number in reversed(range(len(rows))))):
        found = {
            row.variant: row
            for row in rows
            if row.id == measurement_id(row.run, row.target, row.variant, *number)
        }
        if "candidate" in found:
            return found
    return {}


def _counts(run: Mapping[str, Row[Any]]) -> bool:
    """Whether it is a night: a session that was whole, and not invalid."""
    return run["candidate"].validity in ("valid", "suspect") and set(VARIANTS) <= set(run)


def _key(run: Mapping[str, Row[Any]]) -> Key:
    return run["candidate"].segment, run["baseline"].digest, run["canary"].digest


def _logs(run: Mapping[str, Row[Any]], found: Mapping[str, Sequence[float]]) -> Logs | None:
    """The logs of the processes' median latencies, where they may be compared."""
    if not _counts(run) or any(run[name].id not in found for name in VARIANTS):
        return None
    logs = {name: np.log(found[run[name].id]) for name in VARIANTS}
    counts = {len(each) for each in logs.values()}
    return logs if len(counts) == 1 and counts.pop() >= 2 else None


def _point(run: Mapping[str, Row[Any]]) -> TrendPoint:
    row = run["candidate"]
    medians = {name: run[name].p50_ms for name in VARIANTS if name in run and run[name].p50_ms is not None}
    whole = _counts(run) and {"candidate", "baseline"} <= set(medians)
    change = medians["candidate"] / medians["baseline"] if whole else None
    return TrendPoint(
        run=row.run,
        started=row.started,
        validity=row.validity,
        medians_ms=medians,
        change=None if change is None else Estimate(value=change, low=None, high=None),
        metric={name: each.metric for name, each in run.items() if each.metric is not None},
        peak_memory_bytes=row.peak_memory_bytes,
        file_bytes=row.file_bytes,
    )


def _changes(nights: Sequence[Logs]) -> list[Estimate]:
    """Candidate over baseline in each night, with the interval that was known of the device by then."""
    changes = []
    for number, logs in enumerate(nights):
        pairs = logs["candidate"] - logs["baseline"]
        own = [each["again"] - each["baseline"] for each in nights[: number + 1]]
        own = [each for each in own if len(each) == len(pairs)][-WINDOW:]
        between, known = float(between_sessions(np.stack(own))), max(len(own), ENOUGH) - 1
        found = paired_test(pairs, between, known)
        value, low, high = (float(np.exp(each)) for each in (found.change, found.low, found.high))
        changes.append(Estimate(value=value, low=low, high=high))
    return changes


def _steps(nights: Sequence[Logs], at: Sequence[int]) -> tuple[list[float], list[Step]]:
    """The level of candidate over canary in each night, and the steps; `at` are the nights' places in the series."""
    ratios = np.array([(each["candidate"] - each["canary"]).mean() for each in nights])
    canary = np.array([each["canary"].mean() for each in nights])
    found = change_points(ratios, SUSPECT_OVER_NIGHTS)
    edges = [0, *(point.at for point in found), len(ratios)]
    levels = [
        float(np.exp(ratios[low:high].mean()))
        for low, high in itertools.pairwise(edges)
        for _ in range(low, high)
    ]
    named = [("candidate", each) for each in found]
    named += [("device", each) for each in change_points(canary, SUSPECT_OVER_NIGHTS)]
    return levels, [
        Step.model_validate(
            {"at": at[each.at], "of": of, "change": float(np.expm1(each.step)), "p": float(each.p)}
        )
        for of, each in named
    ]


def _why(before: Mapping[str, Row[Any]], after: Mapping[str, Row[Any]]) -> str:
    """What makes two nights ones of different segments."""
    was, now = (json.loads(run["candidate"].identity) for run in (before, after))
    said = [
        f"{key}: {_told(was.get(key))} became {_told(now.get(key))}"
        for key in sorted(was.keys() | now.keys())
        if was.get(key) != now.get(key)
    ]
    said += [
        f"another {name}" for name in ("baseline", "canary") if before[name].digest != after[name].digest
    ]
    return "; ".join(said)


def _told(value: Any) -> str:
    return "not told" if value in (None, {}, []) else str(value)

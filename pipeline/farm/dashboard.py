"""What the night's page shows: the night, its devices, and the nights before, out of the history."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, func, select

from pipeline.errors import UserError
from pipeline.farm import night as nights
from pipeline.farm.judge import NightVerdict, Outcome
from pipeline.farm.night import Night, NightJob
from pipeline.farm.trends import Trend, trend
from pipeline.history.tables import measurements
from pipeline.measurement.error_rates import ErrorRates
from pipeline.measurement.measurement import Record

State = Literal["up", "too noisy", "invalid", "missing"]
# What a verdict's outcome says of the device, the worse first.
DOUBTS: dict[State, Outcome] = {"invalid": "invalid", "too noisy": "unstable"}


class Device(Record):
    """One device: how it was tonight and why, when it last measured anything, what it shows. `rates` are those of its
    series that shows least; `temperature_c` is its hottest zone before a session."""

    target: str
    state: State
    reason: str
    emulated: bool
    description: str
    runtime: str | None
    last_seen: str | None
    temperature_c: float | None
    rates: ErrorRates | None


class Dashboard(Record):
    """All that is on the page; `pages` say where a run's page or result is, relative to the night's own folder."""

    night: Night
    fleet: tuple[Device, ...]
    trends: tuple[Trend, ...]
    pages: dict[str, str]


def gather(connection: Connection, night: Night, folder: Path) -> Dashboard:
    """The page of a night whose files are in `folder`, beside the nights before."""
    alarmed = {(each.plan, each.target) for each in night.alarms}
    named = {(job.plan, job.target) for job in night.jobs}
    # What there is to look at comes first.
    ordered = sorted(named, key=lambda name: (name not in alarmed, name))
    return Dashboard(
        night=night,
        fleet=tuple(_fleet(connection, night)),
        trends=tuple(trend(connection, plan, target, night.finished) for plan, target in ordered),
        pages=_pages(night, folder),
    )


def _fleet(connection: Connection, night: Night) -> Iterator[Device]:
    table = measurements.c
    query = select(table.target, func.max(table.started)).where(table.started <= night.finished)
    last_seen = {row[0]: row[1] for row in connection.execute(query.group_by(table.target))}
    for target in sorted({job.target for job in night.jobs}):
        jobs = [job for job in night.jobs if job.target == target]
        verdicts = [each for each in night.verdicts if each.target == target]
        state, reason = _state(jobs, verdicts)
        found = next((job for job in jobs if job.ended == "done"), jobs[0])
        rates = [each.rates for each in verdicts if each.rates is not None]
        yield Device(
            target=target,
            state=state,
            reason=reason,
            emulated=any(job.emulated for job in jobs),
            description=found.description,
            runtime=found.runtime,
            last_seen=last_seen.get(target),
            temperature_c=max(filter(None, map(_hottest, jobs)), default=None),
            rates=max(rates, key=lambda each: each.detectable or 0.0, default=None),
        )


def _state(jobs: Sequence[NightJob], verdicts: Sequence[NightVerdict]) -> tuple[State, str]:
    """The worst that is told of a device, and why. A job that was measured and is not judged does not speak of it."""
    missing = [job for job in jobs if job.ended == "missing"]
    if missing:
        of_many = f"{len(missing)} of {len(jobs)} jobs: " if len(jobs) > 1 else ""
        return "missing", of_many + missing[0].reason
    for state, outcome in DOUBTS.items():
        for each in verdicts:
            if each.outcome == outcome:
                return state, f"{each.plan}: {each.reason}"
    return "up", ""


def _hottest(job: NightJob) -> float | None:
    zones: Any = job.environment.get("temperatures_c")
    found = [float(each) for each in zones.values() if isinstance(each, int | float)] if zones else []
    return max(found, default=None)


def _pages(night: Night, folder: Path) -> dict[str, str]:
    """The page of each run that is still there, or else its result, by the run's id."""
    here = folder.resolve()
    found = dict(_runs_of(night, ""))
    for other in sorted(here.parent.glob("*/night.json")):
        # A link to the latest night is that night once more.
        if other.parent.is_symlink() or other.parent == here:
            continue
        try:
            found |= _runs_of(nights.load(other), f"../{other.parent.name}/")
        except UserError:
            # A night of another version has no links here; its figures are in the history all the same.
            continue
    return {
        run: f"{place}/{names[0]}"
        for run, place in found.items()
        if (names := [name for name in ("report.html", "result.json") if (here / place / name).is_file()])
    }


def _runs_of(night: Night, prefix: str) -> Mapping[str, str]:
    return {job.run: prefix + job.folder for job in night.jobs if job.run and job.folder}

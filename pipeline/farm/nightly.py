"""One night: every job measured and entered in the history as it ends, then all judged together, into one document."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline import deployment, engine, result
from pipeline.artifacts import Store
from pipeline.at_once import AtOnce
from pipeline.errors import ExitCode, UserError
from pipeline.farm import attendance, engines, pins
from pipeline.farm.attend import Attendance
from pipeline.farm.case import Case, Past, Session
from pipeline.farm.heart import Hold
from pipeline.farm.judge import judge
from pipeline.farm.night import JobVariant, KnownJob, Night, NightJob
from pipeline.farm.nightly_file import NightlyFile
from pipeline.farm.past import Wanted, past
from pipeline.farm.prepare import Preparation, Series, told
from pipeline.farm.session import NightlyJob, measure_job, session_of
from pipeline.history import series
from pipeline.history.database import reading
from pipeline.history.record import record
from pipeline.measurement.nights import RERUNS
from pipeline.one_target import failed, now
from pipeline.progress import Progress
from pipeline.result import Result, TargetResult
from targets.device import DeviceBusy

NO_BASELINE = (
    "measured, and held against nothing: no baseline was accepted yet; "
    "edgepipe baseline accept {runs}/latest-night --reason TEXT"
)


@dataclass(frozen=True)
class Ran:
    """A job and what came of it, in `folder`, relative to the night's."""

    job: NightlyJob
    run: Result
    folder: str

    @property
    def found(self) -> TargetResult:
        return self.run.targets[self.job.name]

    @property
    def series(self) -> Series:
        return self.run.name, self.job.name


@dataclass
class Nightly:
    """A night under way: its folder below `runs`, and the history's `url`, None for the usual one."""

    file: NightlyFile
    cache: Store
    runs: Path
    url: str | None
    progress: Progress
    at_once: AtOnce = field(default_factory=AtOnce)
    created: str = field(default_factory=now)

    def __post_init__(self) -> None:
        stamp = re.sub("[-:Z]", "", self.created).replace("T", "-")
        self.id = f"{self.file.says.name}-{stamp}-{uuid.uuid4().hex[:6]}"
        self.folder = self.runs / self.id
        # What came of each job the last time it was tried.
        self.ran: dict[str, Ran] = {}
        self.reruns: dict[Series, tuple[str, ...]] = {}

    def run(self) -> Night:
        """Measure, judge. Raises `UserError` before anything is measured; what a device does wrong is in the night."""
        engines.engine(self.file.says.engine).ready()
        before = attendance.last(self.file.says.name, self.url)
        for name in pins.unrecorded(self.file, self.url):
            self.progress.line(f"{name}: the history does not know who accepted its baseline, and why")
        self.folder.mkdir(parents=True)
        ready = Preparation(self.file, self.cache, self.folder / "bugs.txt", self.progress)
        unfit = self._attend(_by_key(ready.run(self.file.places)))
        # When all others are through, there is time for those that did not answer.
        if awake := self._wait_for(ready):
            unfit |= self._attend(_by_key(ready.run(awake)))
        jobs = _by_key(ready.jobs)
        ran = {self.ran[key].series: self.ran[key] for key in jobs if key in self.ran}
        missing = ready.missing | {(jobs[key].plan.name, jobs[key].name): why for key, why in unfit.items()}
        missing |= attendance.unheard_of(self.file)
        missing |= {(job.plan, job.target): why for job, why in attendance.vanished(self.file, before)}
        cases = {of: self._case(of, ran.get(of), missing.get(of, "")) for of in self._order(missing)}
        verdicts = judge(list(cases.values()), self._again)
        known = {(job.plan, job.target): job for job in before.jobs} if before else {}
        return Night(
            id=self.id,
            created=self.created,
            finished=now(),
            version=engine.tool_versions(("edgepipe",))["edgepipe"],
            nightly=self.file.says.name,
            file=str(self.file.path),
            jobs=tuple(self._job(case, ran.get(of), known.get(of)) for of, case in cases.items()),
            verdicts=verdicts,
            exit_code=int(ExitCode.GATE if any(each.alarm for each in verdicts) else ExitCode.PASS),
        )

    def _attend(self, jobs: Mapping[str, NightlyJob]) -> dict[str, str]:
        return self._attendance.run(jobs)

    @property
    def _attendance(self) -> Attendance:
        return Attendance(
            self.id,
            self.url,
            self.file.says.policy,
            self.measure,
            lambda error: told(error, self.folder / "bugs.txt"),
            self.file.says.engine,
        )

    def _wait_for(self, ready: Preparation) -> list[str]:
        """The targets that did not answer at first, and do when they have been given time."""
        silent = {name: self.file.places[name].target for name in ready.silent}
        if silent:
            self.progress.line(f"waiting for {', '.join(silent)}, as long as the policy says")
        away = self._attendance.knock(silent)
        return [name for name in silent if name not in away]

    def measure(self, job: NightlyJob, hold: Hold, number: int) -> TargetResult:
        """Measure a job for the `number`-th time again; its result is written and in the history when this returns."""
        known: dict[str, Any] = {}
        run = deployment.new_result(job.plan)
        try:
            found = measure_job(job, hold, self.at_once, self.progress, known)
            model = deployment.model_result(job.plan, job.host)
            for name in ("candidate", "canary") if job.anew is None else ():
                pins.leave(job.variants[name], self.folder / pins.FILES)
            run = run.model_copy(update={"stages": tuple(job.host.records), "model": model})
        except DeviceBusy:
            raise
        except Exception as error:
            found = failed(job.target, told(error, self.folder / "bugs.txt"), ExitCode.BUG, known)
        run = run.model_copy(update={"targets": {job.name: found}, "exit_code": found.exit_code})
        key = f"{run.name}/{job.name}" + ("" if job.anew is None else f"/rerun-{job.anew}")
        ran = Ran(job, run, f"jobs/{key}" + (f"/try-{number + 1}" if number else ""))
        result.save(run, self.folder / ran.folder)
        self.ran[key] = ran
        try:
            record(run, self.url)
        except UserError as error:
            self.progress.line(
                f"not in the history: {error}\nlater: edgepipe history add {self.folder / ran.folder}"
            )
        return found

    def _order(self, missing: dict[Series, str]) -> list[Series]:
        """Every series of the night: those of the file, then those that vanished."""
        listed = [(plan, name) for plan in self.file.entries for name in self.file.places]
        return [*listed, *(of for of in missing if of not in listed)]

    def _case(self, of: Series, ran: Ran | None, problem: str) -> Case:
        plan, target = of
        entry, place = self.file.entries.get(plan), self.file.places.get(target)
        case = Case(
            plan,
            target,
            entry.plan.metric.better if entry else "higher",
            session_of(ran.found) if ran else None,
            problem or (ran.found.error or "" if ran else ""),
            thresholds=entry.thresholds if entry else self.file.says.thresholds,
            judged=self.file.says.judged(place is not None and place.target.emulated),
        )
        if ran is None or case.session is None:
            return case
        if ran.job.baseline is None and case.session.validity.state != "invalid":
            return replace(case, session=None, problem=NO_BASELINE.format(runs=self.runs))
        try:
            return replace(case, past=self._past(ran))
        except UserError as error:
            # It is not judged without its nights before, and no other is held up by it.
            return replace(case, session=None, problem=str(error))

    def _past(self, ran: Ran) -> Past:
        found, files = ran.found, ran.job.variants
        wanted = Wanted(
            *ran.series,
            series.segment(series.identity(found)),
            files["baseline"].digest,
            files["canary"].digest,
        )
        with reading(self.url) as connection:
            return past(connection, wanted, found.started or self.created)

    def _again(self, suspected: Sequence[Case]) -> list[list[Session]]:
        """Measure the suspected anew, in sessions of their own; what is not valid is left out."""
        keys = {
            (case.plan, case.target): [f"{case.plan}/{case.target}/rerun-{n + 1}" for n in range(RERUNS)]
            for case in suspected
        }
        for plan, target in keys:
            self.progress.line(f"{plan} on {target}: suspected, and measured anew {RERUNS} times")
        jobs = {
            key: replace(self.ran["/".join(of)].job, anew=number)
            for of, mine in keys.items()
            for number, key in enumerate(mine, 1)
        }
        self._attend(jobs)
        ran = {of: [self.ran[key] for key in mine if key in self.ran] for of, mine in keys.items()}
        self.reruns = {of: tuple(each.folder for each in mine) for of, mine in ran.items()}
        return [
            [
                session
                for each in mine
                if (session := session_of(each.found)) and session.validity.state != "invalid"
            ]
            for mine in ran.values()
        ]

    def _job(self, case: Case, ran: Ran | None, before: KnownJob | None) -> NightJob:
        """A job as the document has it; of one that vanished what the night before knew of it."""
        entry, place = self.file.entries.get(case.plan), self.file.places.get(case.target)
        known = {
            "plan": case.plan,
            "target": case.target,
            "plan_file": entry.listed.plan if entry else before.plan_file if before else "",
            "tag": place.tag if place else before.tag if before else "",
            "emulated": place.target.emulated if place else before is not None and before.emulated,
            "description": place.target.description if place else before.description if before else "",
            "thresholds": case.thresholds,
            "judged": case.judged,
        }
        if ran is None:
            return NightJob(ended="missing", reason=case.problem, **known)
        return _measured(ran, known, self.reruns.get(ran.series, ()), self._owner(ran))

    def _owner(self, ran: Ran) -> str | None:
        baseline = self.file.says.baselines.get("/".join(ran.series))
        return baseline.owner if baseline else None


def _by_key(jobs: Sequence[NightlyJob]) -> dict[str, NightlyJob]:
    return {f"{job.plan.name}/{job.name}": job for job in jobs}


def _measured(ran: Ran, known: dict[str, object], reruns: tuple[str, ...], owner: str | None) -> NightJob:
    found, metric = ran.found, ran.job.plan.metric
    variants = {}
    for name, file in (found.encoded.variants if found.encoded else {}).items():
        figures: dict[str, object] = {}
        if (summary := found.summaries.get(name)) is not None:
            names = ("p50_ms", "p90_ms", "peak_memory_bytes", "metric")
            figures = {each: getattr(summary, each) for each in names}
        variants[name] = JobVariant.model_validate({**file.model_dump(), **figures})
    done = session_of(found) is not None
    return NightJob(
        ended="done" if done else "missing",
        reason="" if done else found.error or "",
        run=ran.run.id,
        folder=ran.folder,
        reruns=reruns,
        started=found.started,
        seconds=found.seconds,
        runtime=found.runtime,
        segment=series.segment(series.identity(found)),
        device=found.device,
        environment=found.environment.get("before") or {},
        metric=metric.title,
        direction=metric.better,
        variants=variants,
        baseline_owner=owner,
        validity=found.validity,
        **known,
    )

"""What a night needs before any device measures: who answers, what the plans' stages make, which files are pinned."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline import deployment, engine
from pipeline.artifacts import Artifact, Store
from pipeline.errors import Disagreement, ExitCode, UserError
from pipeline.farm import pins
from pipeline.farm.nightly_file import Entry, NightlyFile
from pipeline.farm.session import NightlyJob
from pipeline.progress import Progress
from pipeline.sparse_tflite.suited import Suit
from targets.errors import TargetError

Series = tuple[str, str]


@dataclass
class Preparation:
    """The `jobs` that can be measured, and why each other series, (plan, target), cannot: what goes wrong with one
    stops no other. `silent` are the targets that did not answer. A traceback of a bug of ours is kept in `bugs`.
    """

    nightly: NightlyFile
    cache: Store
    bugs: Path
    progress: Progress
    jobs: list[NightlyJob] = field(default_factory=list)
    missing: dict[Series, str] = field(default_factory=dict)
    silent: list[str] = field(default_factory=list)

    def run(self, names: Iterable[str]) -> list[NightlyJob]:
        """Ready every job of the targets of these names. Raises `UserError` for a pinned file that is not there."""
        pinned, before = _pinned(self.nightly, self.cache), len(self.jobs)
        targets = {name: self.nightly.places[name].target for name in names}
        suits, unreachable = deployment.check_reachable(targets, self.progress)
        self.silent = [name for name, failed in unreachable.items() if failed.exit_code == ExitCode.DEVICE]
        for plan, entry in self.nightly.entries.items():
            for name, failed in unreachable.items():
                self.missing[plan, name] = failed.error or failed.headline
            if suits:
                self._ready(plan, entry, suits, pinned)
        return self.jobs[before:]

    def _ready(
        self, plan: str, entry: Entry, suits: Mapping[str, Suit | None], pinned: Mapping[str, Artifact]
    ) -> None:
        """Add the jobs of a plan, or why there are none."""
        try:
            host = engine.run_host_stages(entry.plan, entry.folder, self.cache, self.progress)
        except Exception as error:
            self.missing |= dict.fromkeys(((plan, name) for name in suits), told(error, self.bugs))
            return
        for name, suit in suits.items():
            baseline = self.nightly.says.baselines.get(f"{plan}/{name}")
            job = NightlyJob(
                name,
                self.nightly.places[name].target,
                entry.plan,
                host,
                suit,
                candidate=entry.listed.candidate,
                baseline=pinned[baseline.digest] if baseline else None,
                canary=pinned.get(self.nightly.says.canaries.get(plan, "")),
            )
            try:
                engine.encode(entry.plan, host, self.cache, self.progress, suit)
                self.jobs.append(job)
                self.missing.pop((plan, name), None)
            except Exception as error:
                self.missing[plan, name] = told(error, self.bugs)


def told(error: Exception, bugs: Path) -> str:
    """An error in words; of a bug of ours the traceback is kept."""
    if isinstance(error, UserError | Disagreement | TargetError):
        return str(error)
    bugs.parent.mkdir(parents=True, exist_ok=True)
    with bugs.open("a") as file:
        file.write("".join(traceback.format_exception(error)))
    return f"a bug of ours: {type(error).__name__}: {error}; what to report is in {bugs}"


def _pinned(nightly: NightlyFile, cache: Store) -> dict[str, Artifact]:
    """The files that tonight's jobs need, by digest."""
    series = {f"{plan}/{name}" for plan in nightly.entries for name in nightly.places}
    wanted = {
        each.digest: f"the baseline of {name}"
        for name, each in nightly.says.baselines.items()
        if name in series
    }
    wanted |= {
        digest: f"the canary of {plan}"
        for plan, digest in nightly.says.canaries.items()
        if plan in nightly.entries
    }
    found: dict[str, Artifact] = {}
    problems: list[str] = []
    for digest, what in wanted.items():
        try:
            found[digest] = pins.find(digest, f"{nightly.path}: {what}", cache, pins.beside(nightly))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*problems)
    return found

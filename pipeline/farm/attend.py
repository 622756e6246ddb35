"""A night's jobs on a farm's devices: leased, seen to be fit, tried again, put aside, all by the farm's engine."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import ExitCode, UserError
from pipeline.farm.engines import Farm, engine
from pipeline.farm.heart import Hold
from pipeline.farm.leases import Leases, open_farm
from pipeline.farm.policy import Policy
from pipeline.farm.queue import Job, Queue
from pipeline.farm.session import NightlyJob
from pipeline.farm.station import Station, station_of
from pipeline.farm.worker import Work
from pipeline.result import TargetResult
from targets.errors import TargetError
from targets.target import TargetBase

# Measures a job on a device that is held; the number says for which time it is tried again.
Measure = Callable[[NightlyJob, Hold, int], TargetResult]


@dataclass(frozen=True)
class Attendance:
    """Jobs by their keys attended to under a night's name: no other controller takes them."""

    night: str
    url: str | None
    policy: Policy
    measure: Measure
    # An error in words.
    told: Callable[[Exception], str] = str
    engine: str = "local"

    def run(self, jobs: Mapping[str, NightlyJob]) -> dict[str, str]:
        """Every job measured, the devices all at once, the jobs of one one after the other; of those that were not,
        why: also where it is no device's fault, for one failure is not to cost what all others measured."""
        return self._all({key: (job.name, job.target) for key, job in jobs.items()}, self._work(jobs))

    def knock(self, targets: Mapping[str, TargetBase]) -> dict[str, str]:
        """Wait for targets until they are fit, their power switched off and on meanwhile; of those that never were,
        why."""
        return self._all({name: (name, target) for name, target in targets.items()}, lambda job, hold: {})

    def _all(self, places: Mapping[str, tuple[str, TargetBase]], work: Work) -> dict[str, str]:
        stations: dict[str, Station] = {}
        missing: dict[str, str] = {}
        wanted = []
        for key, (name, target) in places.items():
            try:
                stations[name] = station_of(name, target)
            except TargetError as error:
                missing[key] = str(error)
                continue
            wanted.append(Job(f"{self.night}/{key}", stations[name].device, owner=self.night))
        failed = self._ended(stations, wanted, work) if wanted else {}
        return missing | {key: failed[of] for key in places if (of := f"{self.night}/{key}") in failed}

    def _ended(self, stations: Mapping[str, Station], wanted: Sequence[Job], work: Work) -> dict[str, str]:
        """Of the jobs that were not done, by their keys, why."""
        said: dict[str, str | None] = {}

        def noted(job: Job, hold: Hold) -> dict[str, Any]:
            try:
                result = work(job, hold)
            except (TargetError, UserError) as error:
                said[job.key] = str(error)
                raise
            except Exception as error:
                # A full disk, or a bug of ours: this job's end, and no other's.
                said[job.key] = why = self.told(error)
                raise UserError(why) from error
            said[job.key] = None
            return result

        try:
            ended = engine(self.engine).run(
                Farm(self.url, stations, noted, self.policy, owner=self.night), wanted
            )
        except Exception as error:
            # The database, most likely: it cannot be asked what became of them.
            why = self.told(error)
            self._withdraw(why)
            ours = {job.key: said.get(job.key, why) for job in wanted}
            return {key: why for key, why in ours.items() if why is not None}
        except BaseException:
            self._withdraw("its night was interrupted")
            raise
        return {each.key: each.error or "" for each in ended if each.state != "done"}

    def _withdraw(self, why: str) -> None:
        """Where the database can be had: the jobs are this night's alone, and nobody else would ever take them."""
        with contextlib.suppress(Exception), contextlib.closing(open_farm(self.url)) as database:
            Queue(Leases(database), self.policy, self.night).withdraw(why)

    def _work(self, jobs: Mapping[str, NightlyJob]) -> Work:
        tries: Counter[str] = Counter()

        def work(job: Job, hold: Hold) -> dict[str, Any]:
            key = job.key.removeprefix(f"{self.night}/")
            found = self.measure(jobs[key], hold, tries[key])
            tries[key] += 1
            if found.error is not None and found.exit_code == ExitCode.DEVICE:
                # The device's fault: tried again.
                raise TargetError(found.error)
            if found.error is not None and found.exit_code == ExitCode.USER:
                raise UserError(found.error)
            return {"headline": found.headline}

        return work

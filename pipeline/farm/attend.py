"""A night's jobs on a farm's devices: leased, seen to be fit, tried again, put aside, all by the farm's engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import ExitCode, UserError
from pipeline.farm.engines import Farm, local
from pipeline.farm.heart import Hold
from pipeline.farm.policy import Policy
from pipeline.farm.queue import Job
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

    def run(self, jobs: Mapping[str, NightlyJob]) -> dict[str, str]:
        """Every job measured, the devices all at once, the jobs of one one after the other; of those that were not,
        why. Raises what is no device's fault."""
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
        farm = Farm(self.url, stations, work, self.policy, owner=self.night)
        ended = local.run(farm, wanted) if wanted else []
        failed = {each.key: each.error or "" for each in ended if each.state != "done"}
        return missing | {key: failed[of] for key in places if (of := f"{self.night}/{key}") in failed}

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

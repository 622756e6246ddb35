"""Where the jobs of a farm's devices are attended to: one file an engine, each with `ready()` and `run(farm, jobs)`."""

from __future__ import annotations

import importlib
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.errors import UserError
from pipeline.farm.leases import TTL_S
from pipeline.farm.policy import Policy
from pipeline.farm.queue import Job, Outcome, Queue
from pipeline.farm.station import Station
from pipeline.farm.worker import Work


@dataclass(frozen=True)
class Farm:
    """What an engine is given: the database's `url` (None: the history's), devices by name, and how a job is done.

    `work` is done by the controller; what it hands to `Hold.run`, by whichever machine attends to the device. With an
    `owner` only the jobs of that one are taken, for `work` knows no others.
    """

    url: str | None
    stations: Mapping[str, Station]
    work: Work
    policy: Policy = field(default_factory=Policy)
    ttl_s: float = TTL_S
    owner: str | None = None


class Engine(Protocol):
    """What each of the files here is."""

    def ready(self) -> None:
        """Raises `UserError` where something is missing that it needs."""

    def run(self, farm: Farm, jobs: Sequence[Job]) -> list[Outcome]:
        """Queue the jobs, have them done; what came of each."""


def engine(name: str) -> Engine:
    """The engine of that name."""
    found: Engine = importlib.import_module(f"{__name__}.{name}")
    return found


def submit(queue: Queue, stations: Mapping[str, Station], jobs: Sequence[Job]) -> None:
    """Queue the jobs. Raises `UserError` at once, and queues none, where one is for a device that is not there."""
    unknown = sorted({job.device for job in jobs} - {station.device for station in stations.values()})
    if unknown:
        known = ", ".join(sorted(station.device for station in stations.values()))
        raise UserError(*(f"{device}: no device of this farm; known: {known}" for device in unknown))
    queue.submit(jobs)


def outcomes(queue: Queue, jobs: Sequence[Job]) -> list[Outcome]:
    """What came of the jobs, in their order."""
    return queue.outcomes([job.key for job in jobs])


def holder() -> str:
    """A name for a controller that no other has."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"

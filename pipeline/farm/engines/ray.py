"""Devices attended to by a Ray cluster: a named actor for each, on whichever of its machines.

Who has which device, what is to be done and what came of it is the controller's, as with every engine: it holds the
leases, and its database has the truth. Only what is done at a device travels. An actor that dies with its machine is
started anew on another; what it was at counts as lost with its lease, and is done again under the next.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from pipeline.errors import UserError, first_line
from pipeline.farm.engines import Farm, holder, local
from pipeline.farm.heart import Hold
from pipeline.farm.leases import Lease
from pipeline.farm.queue import Job, Outcome
from pipeline.farm.station import Station
from targets.errors import TargetError

T = TypeVar("T")
NAMESPACE = "edgepipe"
# How often it is looked whether an answer is still wanted, and how long one is waited for that is not.
LOOK_EVERY_S = 1.0
PATIENCE_S = 30.0
# How many times an actor is asked, so often, while it is started anew elsewhere.
TRIES = 300


def ready() -> None:
    """Connect to the cluster that RAY_ADDRESS names, or that runs here, else start one, unless there is a connection.
    Raises `UserError` where Ray is missing, or no cluster is there."""
    ray = _ray()
    if ray.is_initialized():
        return
    where = os.environ.get("RAY_ADDRESS", "")
    # Nobody is told that it is used.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ending = signal.getsignal(signal.SIGTERM)
    try:
        _knock(where)
        ray.init(namespace=NAMESPACE, log_to_driver=False, include_dashboard=False, configure_logging=False)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise UserError(
            f"no Ray cluster at {where or 'this machine'}: {first_line(error)}; correct RAY_ADDRESS, or leave it out"
        ) from error
    if threading.current_thread() is threading.main_thread():
        # Ray has put its own there, which ends the process without a word.
        signal.signal(signal.SIGTERM, ending)
    _keep_standard_output_clear(ray)


def run(farm: Farm, jobs: Sequence[Job]) -> list[Outcome]:
    """As `local.run`, but what is handed to `Hold.run`, and each station's check, is done by the cluster's machines,
    which have this edgepipe and reach the devices. A station that is `here` is left to this one."""
    ready()
    ray, stop, ours = _ray(), threading.Event(), holder()
    nodes = itertools.cycle([node["NodeID"] for node in ray.nodes() if node["Alive"]])
    away = {
        station.device: _Away(ray, station, f"{station.device}:{ours}", nodes, stop)
        for station in farm.stations.values()
        if not station.here
    }

    def of(station: Station) -> Station:
        return replace(station, check=away[station.device].check) if station.device in away else station

    def work(job: Job, hold: Hold) -> dict[str, Any]:
        if job.device in away:
            hold.elsewhere = away[job.device].run
        return farm.work(job, hold)

    stations = {name: of(station) for name, station in farm.stations.items()}
    try:
        return local.run(replace(farm, stations=stations, work=work), jobs, stop)
    finally:
        for each in away.values():
            # Where the connection is gone, they are; what is raised here would hide why it ends.
            with contextlib.suppress(Exception):
                each.end()


class Attendant:
    """What an actor is: it does what is to be done at one device."""

    def __init__(self) -> None:
        self._holds: dict[Lease, Hold] = {}

    def check(self, check: Callable[[], None]) -> None:
        """Raises `TargetError`."""
        check()

    def act(self, act: Callable[[Hold], T], lease: Lease) -> T:
        """Under a lease that the controller holds."""
        return act(self._hold(lease))

    def lose(self, lease: Lease) -> None:
        """The lease is lost: what is under way ends. It may come before what it ends."""
        self._hold(lease).lose()

    def _hold(self, lease: Lease) -> Hold:
        return self._holds.setdefault(lease, Hold(lease))


class _Away:
    """A device's actor, as the controller has it; there is none before the first question."""

    def __init__(
        self, ray: Any, station: Station, name: str, nodes: Iterator[str], stop: threading.Event
    ) -> None:
        self._ray = ray
        self._station = station
        self._name = name
        self._stop = stop
        self._node = next(nodes)
        self._made: Any = None

    def check(self) -> None:
        """Raises `TargetError` as the station's own, `UserError` where no machine can attend to the device."""
        for _ in range(TRIES):
            try:
                self._answer(self._actor.check.remote(self._station.check), self._stop)
                return
            except self._gone as error:
                why = error
                if getattr(error, "actor_init_failed", False) or self._stop.wait(LOOK_EVERY_S):
                    break
        raise UserError(
            f"{self._station.device}: no machine of the Ray cluster can attend to it: {_last_line(why)}; "
            "expected this edgepipe on each of them"
        )

    def run(self, act: Callable[[Hold], T], hold: Hold) -> T:
        """What `act` returns there. Where the machine is lost so is the hold; raises `TargetError` then."""
        with hold.ending(lambda: self._actor.lose.remote(hold.lease)):
            try:
                found: T = self._answer(self._actor.act.remote(act, hold.lease), hold.lost)
                return found
            except self._gone as error:
                hold.lose()
                raise TargetError(
                    f"{self._station.device}: the machine of the Ray cluster that attended to it is gone",
                    "what was under way there is done again by another",
                ) from error

    def end(self) -> None:
        """End the actor."""
        if self._made is not None:
            self._ray.kill(self._made)

    @property
    def _actor(self) -> Any:
        if self._made is None:
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            made = self._ray.remote(
                # It waits for its device, most of the time: a machine has room for many.
                num_cpus=0,
                # Each machine has as many; those of one that dies are started anew on any.
                scheduling_strategy=NodeAffinitySchedulingStrategy(self._node, soft=True),
                max_restarts=-1,
                # What is done there, `lose`, and what nobody waits for any more.
                max_concurrency=4,
            )(Attendant)
            self._made = made.options(name=self._name, namespace=NAMESPACE).remote()
        return self._made

    @property
    def _gone(self) -> type[Exception]:
        """All that Ray itself raises: a machine is lost, its memory is short, it cannot read what it is sent."""
        gone: type[Exception] = self._ray.exceptions.RayError
        return gone

    def _answer(self, asked: Any, unwanted: threading.Event) -> Any:
        """An actor's answer, or what it raised; `TargetError` where it does not come and is not wanted any more."""
        until = None
        while not self._ray.wait([asked], timeout=LOOK_EVERY_S)[0]:
            if not unwanted.is_set():
                continue
            until = until or time.monotonic() + PATIENCE_S
            if time.monotonic() > until:
                raise TargetError(f"{self._station.device}: the machine that attends to it does not answer")
        try:
            return self._ray.get(asked)
        except self._ray.exceptions.RayTaskError as error:
            raise (error.cause or error) from error


def _knock(where: str) -> None:
    """Ray itself asks for minutes where nobody is. Raises `OSError`."""
    host, _, port = where.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE_S).close()


def _keep_standard_output_clear(ray: Any) -> None:
    """Results go there, and Ray has no setting by which what it tells of lost machines, at length, goes elsewhere."""
    worker = ray._private.worker
    said = getattr(worker, "print_to_stdstream", None)
    if said is None:
        # A release that has it elsewhere: what it tells is then among the results.
        return

    def on_standard_error(data: dict[str, Any], *rest: Any, **more: Any) -> None:
        said(
            {**data, "lines": [line.partition("\n")[0] for line in data["lines"]], "is_err": True},
            *rest,
            **more,
        )

    worker.print_to_stdstream = on_standard_error


def _last_line(error: Exception) -> str:
    """Of what was raised on another machine, below how it came to that, in colours."""
    lines = re.sub("\x1b\\[[0-9;]*m", "", str(error)).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


def _ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError:
        raise UserError(
            "the engine ray needs the package ray; install it: pip install 'edgepipe[ray]'"
        ) from None
    return ray

"""Devices attended to by a Ray cluster: a named actor for each, on whichever of its machines.

The truth is in the database. An actor that dies with its machine is started anew on another, takes its device's lease
when the old one has ended, and goes on; all that is lost is what was under way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pipeline.errors import UserError
from pipeline.farm.engines import Farm, holder, outcomes, submit
from pipeline.farm.heart import Heart
from pipeline.farm.leases import Leases, open_farm
from pipeline.farm.queue import Job, Outcome, Queue
from pipeline.farm.worker import Worker
from pipeline.history.database import default_url

NAMESPACE = "edgepipe"
# How often, and how many times at most, a device's actor is asked again that is being started anew elsewhere.
LOOK_EVERY_S = 1.0
TRIES = 300
PATIENCE_S = 30.0


def run(farm: Farm, jobs: Sequence[Job]) -> list[Outcome]:
    """As `local.run`, on the cluster that Ray is connected to, or that RAY_ADDRESS names, or else on this machine.

    The farm's `work` and stations must be known to all its machines, which have this edgepipe. Raises `UserError`, too,
    where Ray is missing, or the database is one that only this machine can reach.
    """
    ray = _ray()
    farm = replace(farm, url=farm.url or default_url())
    if not ray.is_initialized():
        ray.init(namespace=NAMESPACE, log_to_driver=False, include_dashboard=False, configure_logging=False)
    _check_reach(ray, str(farm.url))
    database = open_farm(farm.url)
    try:
        leases = Leases(database)
        queue = Queue(leases, farm.policy, farm.owner)
        submit(queue, farm.stations, jobs)
        _attend(ray, farm, leases.farm)
        return outcomes(queue, jobs)
    finally:
        database.close()


class Attendant:
    """What an actor is: it attends to one device."""

    def __init__(self, farm: Farm, device: str) -> None:
        self._farm = farm
        self._station = next(each for each in farm.stations.values() if each.device == device)
        self._stop = threading.Event()

    def attend(self) -> None:
        """Until none of the device's jobs is left."""
        database = open_farm(self._farm.url)
        leases = Leases(database)
        queue, heart = Queue(leases, self._farm.policy, self._farm.owner), Heart(leases)
        try:
            arguments = (queue, heart, self._station, self._farm.work, holder(), self._stop, self._farm.ttl_s)
            ended = threading.Thread(target=self._end_with, args=(heart,), daemon=True)
            ended.start()
            Worker(*arguments).run()
        finally:
            heart.close()
            database.close()

    def stop(self) -> None:
        """Give the device back; what is under way there ends."""
        self._stop.set()

    def _end_with(self, heart: Heart) -> None:
        self._stop.wait()
        heart.lose_all()


def _attend(ray: Any, farm: Farm, name: str) -> None:
    """Every device's actor, until all are through; what one raises is raised then."""
    devices = sorted({station.device for station in farm.stations.values()})
    # They wait for devices, most of the time: a machine has room for many.
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_concurrency=2, scheduling_strategy="SPREAD")(
        Attendant
    )
    # Another controller has actors of its own, for its own work: the lease says whose turn it is.
    ours = holder()
    actors = {
        device: actor.options(name=f"{name}:{device}:{ours}", namespace=NAMESPACE).remote(farm, device)
        for device in devices
    }
    attending = {actors[device].attend.remote(): device for device in devices}
    tries, failed = dict.fromkeys(devices, 0), []
    try:
        while attending:
            for ended in ray.wait(list(attending), num_returns=1)[0]:
                device = attending.pop(ended)
                try:
                    ray.get(ended)
                except ray.exceptions.RayActorError as error:
                    tries[device] += 1
                    if tries[device] < TRIES:
                        time.sleep(LOOK_EVERY_S)
                        attending[actors[device].attend.remote()] = device
                    else:
                        failed.append(error)
                except ray.exceptions.RayTaskError as error:
                    failed.append(error.cause or error)
    except BaseException:
        for each in actors.values():
            each.stop.remote()
        ray.wait(list(attending), num_returns=len(attending), timeout=PATIENCE_S)
        raise
    finally:
        for each in actors.values():
            ray.kill(each)
    if failed:
        raise failed[0]


def _check_reach(ray: Any, url: str) -> None:
    machines = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if len(machines) > 1 and url.startswith("sqlite"):
        raise UserError(
            f"the history at {url} is a file, which only this machine has, and the cluster has {len(machines)}: "
            "expected one in PostgreSQL, by EDGEPIPE_HISTORY"
        )


def _ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError:
        raise UserError(
            "the engine ray needs the package ray; install it: pip install 'edgepipe[ray]'"
        ) from None
    return ray

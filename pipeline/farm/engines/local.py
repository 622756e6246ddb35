"""All devices attended to from this process: a thread for each."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait

from pipeline.farm.engines import Farm, holder, outcomes, submit
from pipeline.farm.heart import Heart
from pipeline.farm.leases import Leases, open_farm
from pipeline.farm.queue import Job, Outcome, Queue
from pipeline.farm.worker import Worker


def ready() -> None:
    """Nothing is missing."""


def run(farm: Farm, jobs: Sequence[Job], stop: threading.Event | None = None) -> list[Outcome]:
    """Queue the jobs, and attend to every device until none of its jobs is left; what came of each, in their order.

    Whoever runs it elsewhere on the same database takes part: a device is attended to by one at a time. Interrupted,
    it sets `stop` and gives every device back; what was under way is done again by the next. Raises `UserError` for a
    device that is not there, and when the other devices are through, what is neither a device's nor a job's fault.
    """
    database = open_farm(farm.url)
    try:
        queue = Queue(Leases(database), farm.policy, farm.owner)
        submit(queue, farm.stations, jobs)
        _attend(farm, queue, stop or threading.Event())
        return outcomes(queue, jobs)
    finally:
        database.close()


def _attend(farm: Farm, queue: Queue, stop: threading.Event) -> None:
    heart, name = Heart(queue.leases), holder()
    devices = {station.device: station for station in farm.stations.values()}
    workers = [
        Worker(queue, heart, station, farm.work, name, stop, farm.ttl_s) for station in devices.values()
    ]
    try:
        with ThreadPoolExecutor(len(workers) or 1, thread_name_prefix="device") as pool:
            attending = [pool.submit(worker.run) for worker in workers]
            try:
                wait(attending)
            except BaseException:
                stop.set()
                heart.lose_all()
                raise
        for ended in attending:
            ended.result()
    finally:
        heart.close()

"""One device's attendant: takes the lease, sees that the device is fit, does the jobs that wait for it, one by one."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from pipeline.errors import UserError
from pipeline.farm.heart import Heart, Hold
from pipeline.farm.leases import TTL_S, DeviceTaken, LeaseLost
from pipeline.farm.queue import Job, Queue
from pipeline.farm.station import Station
from pipeline.history.database import DatabaseAway
from targets.device import DeviceBusy
from targets.errors import TargetError

T = TypeVar("T")
# What a job is: done on a device that is held, it returns its result, a JSON object. A `TargetError` is the device's
# fault: it is tried again; a `UserError` is the job's own. Its connection is best closed by `Hold.ending`.
Work = Callable[[Job, Hold], dict[str, Any]]
# How often a device that another controller has is asked for.
LOOK_EVERY_S = 1.0
# How often a device that is aside is: somebody may have restored it.
LOOK_AGAIN_S = 10.0
# How long a database may be away.
PATIENCE_S = 120.0


class Worker:
    """Attends to one device until none of its jobs is left, or `stop` is set."""

    def __init__(
        self,
        queue: Queue,
        heart: Heart,
        station: Station,
        work: Work,
        holder: str,
        stop: threading.Event,
        ttl_s: float = TTL_S,
    ) -> None:
        self._queue = queue
        self._heart = heart
        self._station = station
        self._work = work
        self._holder = holder
        self._stop = stop
        self._ttl_s = ttl_s

    def run(self) -> None:
        """Raises what is no device's and no job's fault."""
        leases, device = self._queue.leases, self._station.device
        while not self._stop.is_set():
            wait_s = self._insist(lambda: self._queue.wait_s(device))
            if wait_s is None:
                return
            if wait_s:
                self._stop.wait(min(wait_s, LOOK_AGAIN_S))
                continue
            try:
                lease = self._insist(lambda: leases.acquire(device, self._holder, self._ttl_s))
            except DeviceTaken:
                self._stop.wait(LOOK_EVERY_S)
                continue
            try:
                with self._heart.keeping(lease) as hold:
                    self._attend(hold)
            except LeaseLost:
                continue
            finally:
                self._insist(lambda lease=lease: leases.release(lease))  # type: ignore[misc]

    def _attend(self, hold: Hold) -> None:
        """Jobs under one lease, and while nobody else has the device."""
        with contextlib.ExitStack() as place:
            try:
                if self._station.reserved is not None:
                    place.enter_context(self._station.reserved(hold))
            except (TargetError, UserError) as error:
                return self._not_had(hold, error)
            self._do_all(hold)

    def _not_had(self, hold: Hold, error: TargetError | UserError) -> None:
        """Nothing is held against the device. The job whose turn it is waits, or fails where it would for ever."""
        job, text = self._insist(lambda: self._queue.take(hold.lease)), str(error)
        end = self._queue.failed if isinstance(error, UserError) else self._queue.postponed
        if job is not None:
            self._insist(lambda: end(hold.lease, job, text))

    def _do_all(self, hold: Hold) -> None:
        """Jobs until one fails, so that what may still run there is ended by the next lease."""
        while not (self._stop.is_set() or hold.lost.is_set()):
            try:
                self._station.check()
            except TargetError as error:
                return self._device_failed(hold, error)
            except UserError as error:
                return self._not_had(hold, error)
            job = self._insist(lambda: self._queue.take(hold.lease))
            if job is None or not self._do(hold, job):
                return
            self._stop.wait(self._station.rest_s)

    def _do(self, hold: Hold, job: Job) -> bool:
        """Whether all is well."""
        try:
            result = self._work(job, hold)
        except DeviceBusy as error:
            text = str(error)
            self._insist(lambda: self._queue.postponed(hold.lease, job, text))
            return False
        except TargetError as error:
            self._device_failed(hold, error, job)
            return False
        except UserError as error:
            text = str(error)
            self._insist(lambda: self._queue.failed(hold.lease, job, text))
            return True
        self._insist(lambda: self._queue.done(hold.lease, job, result))
        return True

    def _device_failed(self, hold: Hold, error: TargetError, job: Job | None = None) -> None:
        if hold.lost.is_set():
            # Another's device by now, perhaps: neither is anything held against it, nor is it switched.
            raise LeaseLost(f"{hold.lease.device}: its lease was lost meanwhile") from error
        became = self._insist(lambda: self._queue.device_failed(hold.lease, str(error), job))
        if became and self._station.power_cycle is not None:
            try:
                self._station.power_cycle(hold)
                said = ""
            except TargetError as failure:
                said = str(failure)
            self._insist(lambda: self._queue.note(hold.lease, "power-cycled", said))

    def _insist(self, act: Callable[[], T]) -> T:
        """Ask a database that is away for a moment again."""
        ends = time.monotonic() + PATIENCE_S
        while True:
            try:
                return act()
            except DatabaseAway:
                if time.monotonic() > ends or self._stop.wait(LOOK_EVERY_S):
                    raise

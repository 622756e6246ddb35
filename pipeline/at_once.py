"""Many devices at once: a thread for each, and one end for all of them."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from targets.device import Device, open_device
from targets.errors import TargetError
from targets.target import TargetBase

T = TypeVar("T")

MOST = 64


class AtOnce:
    """Work on several devices. When the caller is interrupted, every connection is closed, so that all work ends and
    nothing is left running on a device.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: dict[str, threading.RLock] = defaultdict(threading.RLock)
        self._devices: set[Device] = set()
        self._given_up = False
        # What is asked of this machine itself: measuring on it, and judging, which takes its standard output.
        self.this_machine = threading.Lock()

    def run(self, work: Mapping[str, Callable[[], T]]) -> Iterator[tuple[str, T]]:
        """What each of `work` returns, by its name, as it comes. What one raises is raised when the others are done;
        an interruption at once, when all have been ended.
        """
        with ThreadPoolExecutor(min(MOST, len(work) or 1), thread_name_prefix="device") as pool:
            names = {pool.submit(act): name for name, act in work.items()}
            failed: list[BaseException] = []
            try:
                for ended in as_completed(names):
                    error = ended.exception()
                    if error is None:
                        yield names[ended], ended.result()
                    else:
                        failed.append(error)
            except BaseException:
                self._give_up()
                pool.shutdown(cancel_futures=True)
                raise
        if failed:
            raise failed[0]

    @contextlib.contextmanager
    def device(self, name: str, target: TargetBase) -> Iterator[Device]:
        """As `open_device`; a device that two targets name is lent to one after the other."""
        with self._place(target), open_device(name, target) as device:
            with self._lock:
                self._devices.add(device)
            try:
                self._go_on(name)
                yield device
            except TargetError as error:
                self._go_on(name, error)
                raise
            finally:
                with self._lock:
                    self._devices.discard(device)

    def _go_on(self, name: str, error: TargetError | None = None) -> None:
        if self._given_up:
            raise TargetError(f"{name}: the run was interrupted") from error

    def _place(self, target: TargetBase) -> threading.RLock:
        way = getattr(target, target.transport).model_dump(mode="json")
        with self._lock:
            return self._places[json.dumps([target.transport, way], sort_keys=True)]

    def _give_up(self) -> None:
        with self._lock:
            self._given_up = True
            devices = list(self._devices)
        for device in devices:
            device.close()

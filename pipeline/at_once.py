"""Many devices at once: a thread for each, and one end for all of them."""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from targets.device import Device, Lease, open_transport
from targets.errors import TargetError
from targets.target import TargetBase, device_of
from targets.transports import Transport

T = TypeVar("T")
Ending = Callable[[Callable[[], None]], contextlib.AbstractContextManager[None]]

MOST = 64


class AtOnce:
    """Work on several devices. When the caller is interrupted, every connection is closed, so that all work ends and
    nothing is left running on a device.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: dict[str, threading.RLock] = defaultdict(threading.RLock)
        self._open: set[Transport] = set()
        self._given_up = False
        # What is asked of this machine itself: measuring on it, and judging, which takes its standard output.
        self.this_machine = threading.Lock()

    def run(self, work: Mapping[str, Callable[[], T]]) -> Generator[tuple[str, T], None, None]:
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
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        if failed:
            raise failed[0]

    @contextlib.contextmanager
    def device(
        self, name: str, target: TargetBase, lease: Lease | None = None, ending: Ending | None = None
    ) -> Iterator[Device]:
        """As `open_device`; a device that two targets name is lent to one after the other.

        `ending` is handed what closes the connection, should the device not be ours any more.
        """
        with self._place(name, target):
            self._go_on(name)
            with open_transport(name, target) as transport:
                with self._lock:
                    self._open.add(transport)
                try:
                    self._go_on(name)
                    with ending(transport.close) if ending else contextlib.nullcontext():
                        yield Device(name, target, transport, lease)
                except TargetError as error:
                    self._go_on(name, error)
                    raise
                finally:
                    with self._lock:
                        self._open.discard(transport)

    def _go_on(self, name: str, error: TargetError | None = None) -> None:
        if self._given_up:
            raise TargetError(f"{name}: the run was interrupted") from error

    def _place(self, name: str, target: TargetBase) -> threading.RLock:
        """What whoever works on this device holds."""
        try:
            place = device_of(target)
        except TargetError:
            place = f"none that can be reached: {name}"
        with self._lock:
            return self._places[place]

    def _give_up(self) -> None:
        """Close every connection, none waiting for another: one whose network is gone takes its time."""
        with self._lock:
            self._given_up = True
            for transport in self._open:
                threading.Thread(target=_close, args=(transport,), daemon=True).start()


def _close(transport: Transport) -> None:
    # Whoever waits on the connection is told; that it is gone already is no news to the caller, who has gone on.
    with contextlib.suppress(Exception):
        transport.close()

"""The heartbeat of a controller: all its leases renewed in time, and whoever works under one told when it is lost."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from pipeline.farm.leases import Lease, Leases
from pipeline.history.database import DatabaseAway

# Beats within the life of a lease.
BEATS = 4
T = TypeVar("T")


class Hold:
    """A lease that is being kept. `lost` is set as soon as it is known to be lost, or all is to end; the device may be
    another's then if it is not `ours` any more."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.lost = threading.Event()
        self.ours = True
        self.renewed = time.monotonic()
        # Where the engine has another machine for what is done at the device: does it there.
        self.elsewhere: Callable[[Callable[[Hold], Any], Hold], Any] | None = None
        self._ends: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    @property
    def lasts(self) -> bool:
        """Whether the lease is ours, and will be for as long as a few questions take."""
        return self.ours and time.monotonic() - self.renewed < self.lease.ttl_s / 2

    def run(self, act: Callable[[Hold], T]) -> T:
        """What `act` returns, done here, or by the machine that attends to the device.

        For the latter it is pickled, as is what it returns and raises; what it is handed there is this hold's like.
        """
        if self.elsewhere is None:
            return act(self)
        found: T = self.elsewhere(act, self)
        return found

    @contextlib.contextmanager
    def ending(self, end: Callable[[], None]) -> Iterator[None]:
        """For as long as the block runs, `end` is called once if the lease is lost: close a connection, for example."""
        with self._lock:
            self._ends.append(end)
        try:
            if self.lost.is_set():
                end()
            yield
        finally:
            with self._lock:
                self._ends.remove(end)

    def lose(self) -> None:
        """From here on it is lost; what was to be called then is."""
        with self._lock:
            first, ends = not self.lost.is_set(), list(self._ends)
            self.lost.set()
        for end in ends if first else ():
            # One whose network is gone takes its time.
            threading.Thread(target=_quietly, args=(end,), daemon=True).start()


class Heart:
    """Renews leases on a thread of its own until it is closed."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._holds: set[Hold] = set()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._beat, name="heart", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def keeping(self, lease: Lease) -> Iterator[Hold]:
        """Renew a lease for as long as the block runs."""
        hold = Hold(lease)
        with self._lock:
            self._holds.add(hold)
        self._wake.set()
        try:
            yield hold
        finally:
            with self._lock:
                self._holds.discard(hold)

    def lose_all(self) -> None:
        """Have all work end at once: the run was interrupted."""
        with self._lock:
            holds = list(self._holds)
        for hold in holds:
            hold.lose()

    def close(self) -> None:
        """Renew nothing any more."""
        self._closed = True
        self._wake.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._closed:
            self._wake.clear()
            with self._lock:
                holds = {hold.lease: hold for hold in self._holds if not hold.lost.is_set()}
            if holds:
                self._renew(holds)
            self._wake.wait(min((lease.ttl_s / BEATS for lease in holds), default=None))

    def _renew(self, holds: dict[Lease, Hold]) -> None:
        asked = time.monotonic()
        try:
            lost = self._leases.renew(holds)
        except DatabaseAway:
            lost = [lease for lease, hold in holds.items() if asked - hold.renewed >= lease.ttl_s]
        else:
            for hold in holds.values():
                hold.renewed = asked
        for lease in lost:
            holds[lease].ours = False
            holds[lease].lose()


def _quietly(end: Callable[[], None]) -> None:
    # That it is gone already is no news.
    with contextlib.suppress(Exception):
        end()

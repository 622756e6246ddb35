"""Threads that take turns: in the order in which they ask, so that none of a thousand waits for ever."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator


class Turns:
    """A lock that is handed on. `threading.Lock` gives it to whoever comes by, most often to the one that had it."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Lock] = deque()

    @contextlib.contextmanager
    def mine(self, *, urgent: bool = False) -> Iterator[None]:
        """It is this thread's turn for as long as the block runs; `urgent`: before all that wait."""
        if (place := self._queued(urgent)) is not None:
            try:
                place.acquire()
            except BaseException:
                self._leave(place)
                raise
        try:
            yield
        finally:
            with self._mutex:
                self._hand_on()

    def _queued(self, urgent: bool) -> threading.Lock | None:
        """What opens when it is our turn; None: it is already."""
        with self._mutex:
            if not self._taken:
                self._taken = True
                return None
            place = threading.Lock()
            place.acquire()
            (self._waiting.appendleft if urgent else self._waiting.append)(place)
            return place

    def _leave(self, place: threading.Lock) -> None:
        """An interrupted thread waits no more; if it has just been handed the turn, the next one gets it."""
        with self._mutex:
            if place in self._waiting:
                self._waiting.remove(place)
            else:
                self._hand_on()

    def _hand_on(self) -> None:
        if self._waiting:
            self._waiting.popleft().release()
        else:
            self._taken = False

"""Waiting for another process or thread, which may never come to it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
DEADLINE_S = 300.0


def awaited(found: Callable[[], T]) -> T:
    """What `found` returns as soon as that is true. Raises `TimeoutError`, so that a test fails and does not hang."""
    ends = time.monotonic() + DEADLINE_S
    while not (it := found()):
        if time.monotonic() > ends:
            raise TimeoutError(f"nothing came within {DEADLINE_S:g} s")
        time.sleep(0.01)
    return it

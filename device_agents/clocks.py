"""Several clocks, read at one moment: which of them ran on, and whether they agree."""

from __future__ import annotations

import time

# The clock behind every figure; the same without the corrections of time synchronisation; the same, asleep as well.
INTERVALS = {
    "monotonic": time.CLOCK_MONOTONIC,
    "monotonic_raw": getattr(time, "CLOCK_MONOTONIC_RAW", time.CLOCK_MONOTONIC),
    "boottime": getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC),
}
APART_NS, ATTEMPTS = 50_000, 20


def now_ns() -> dict[str, int]:
    """Each clock in nanoseconds, read within 50 microseconds of each other; where that fails, the closest reading."""
    best: dict[str, int] = {}
    closest = None
    for _ in range(ATTEMPTS):
        first = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        read = {name: time.clock_gettime_ns(clock) for name, clock in INTERVALS.items()}
        apart = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - first
        if closest is None or apart < closest:
            best, closest = read, apart
        if apart <= APART_NS:
            break
    return best


def elapsed_ns(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """How far each clock went between two readings."""
    return {name: after[name] - before[name] for name in after}


def of_day_s() -> dict[str, float]:
    """The wall clock, the clock behind every figure, and the one that also counts sleep: a device that dozed
    off between two observations shows here.
    """
    clocks = {
        "realtime": time.CLOCK_REALTIME,
        "monotonic": time.CLOCK_MONOTONIC,
        "boottime": time.CLOCK_BOOTTIME,
    }
    return {name: time.clock_gettime(clock) for name, clock in clocks.items()}

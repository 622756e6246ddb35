"""Invoke back to back: for minutes, to see what becomes of the times as the device grows warm; or untimed."""

from __future__ import annotations

import time
from statistics import median
from typing import Any, Callable

from device_agents import speed

WINDOW_S = 1.0


def sustained(
    prepare: Callable[[], object], run: Callable[[], object], seconds: float
) -> list[dict[str, Any]]:
    """Windows of a second or, where one inference takes longer, of one inference: when it began (`at_s`), how many
    inferences it holds (`count`), the median and the longest of their times in nanoseconds; then, looked at between
    two windows, the warmest zone in Celsius and the fastest core in hertz, None where the device does not tell.
    Only `run` is timed.
    """
    now, windows = time.perf_counter_ns, []
    begins = now()
    while (at := now()) < begins + seconds * 1e9:
        times: list[int] = []
        ends = at + WINDOW_S * 1e9
        while not times or now() < ends:
            prepare()
            start = now()
            run()
            times.append(now() - start)
        windows.append(
            {
                "at_s": round((at - begins) / 1e9, 3),
                "count": len(times),
                "median_ns": round(median(times)),
                "longest_ns": max(times),
                "temperature_c": max(speed.temperatures_c().values(), default=None),
                "frequency_hz": max(speed.frequencies_hz().values(), default=None),
            }
        )
    return windows


def counted(prepare: Callable[[], object], run: Callable[[], object], seconds: float) -> dict[str, Any]:
    """The number of `inferences`, and from when on (`began`) and until when (`ended`) by the clock of every process."""
    prepare()
    run()
    inferences, began = 0, time.monotonic()
    while time.monotonic() < began + seconds:
        prepare()
        run()
        inferences += 1
    return {"inferences": inferences, "began": began, "ended": time.monotonic()}

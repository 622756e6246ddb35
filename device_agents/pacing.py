"""Invoke at a fixed rate, as a real-time application does, and see how late it is."""

from __future__ import annotations

import gc
import time
from typing import Any, Callable


def paced(
    prepare: Callable[[], object],
    run: Callable[[], object],
    *,
    period_ms: float,
    deadline_ms: float,
    seconds: float,
) -> dict[str, Any]:
    """Call `prepare`, then `run`, at each release, one every `period_ms`, for `seconds`.

    Returns nanoseconds from each release to the start (`late_ns`: what waking up took) and to the end
    (`response_ns`); None for one that came while the work before it still went on: it is dropped, as a frame or a
    buffer would be.
    """
    period, now = round(period_ms * 1e6), time.perf_counter_ns
    late: list[int | None] = []
    response: list[int | None] = []
    gc.collect()
    gc.disable()
    try:
        release = ended = now()
        for _ in range(max(1, int(seconds * 1000 / period_ms))):
            release += period
            if ended > release:
                late.append(None)
                response.append(None)
                continue
            while (left := release - now()) > 0:
                time.sleep(left / 1e9)
            started = now()
            prepare()
            run()
            ended = now()
            late.append(started - release)
            response.append(ended - release)
    finally:
        gc.enable()
    return {
        "period_ns": period,
        "deadline_ns": round(deadline_ms * 1e6),
        "late_ns": late,
        "response_ns": response,
    }

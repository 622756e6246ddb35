"""Time inferences one by one, and disturb them as little as can be."""

from __future__ import annotations

import gc
import time
from array import array
from typing import Any, Callable, TypeVar

Result = TypeVar("Result")


def timed(call: Callable[[], Result]) -> tuple[int, Result]:
    """Nanoseconds that one call took, and what it returned."""
    start = time.perf_counter_ns()
    result = call()
    return time.perf_counter_ns() - start, result


def clock() -> dict[str, Any]:
    """The clock behind every figure here: its name, and its nominal resolution in nanoseconds."""
    info = time.get_clock_info("perf_counter")
    return {"name": info.implementation, "resolution_ns": max(1, round(info.resolution * 1e9))}


class Recorder:
    """Raw times in nanoseconds: `warmup_ns`, then `samples_ns`.

    Warm-up lasts until both `warmup_runs` and `warmup_seconds` are reached; sampling until both
    `min_samples` and `min_seconds` are, or `max_samples` is. Room for the samples is taken here: build it
    before memory is measured.
    """

    def __init__(
        self,
        *,
        warmup_runs: int,
        warmup_seconds: float,
        min_samples: int,
        min_seconds: float,
        max_samples: int,
    ) -> None:
        self.warmup_runs = warmup_runs
        self.warmup_seconds = warmup_seconds
        self.min_samples = min_samples
        self.min_seconds = min_seconds
        self.warmup_ns = array("q")
        self.samples_ns = array("q", bytes(8 * max_samples))

    def record(self, prepare: Callable[[], object], run: Callable[[], object]) -> None:
        """Call `prepare`, then `run`, over and over; only `run` is timed. The garbage collector rests
        meanwhile.
        """
        gc.collect()
        gc.disable()
        try:
            self._warm_up(prepare, run)
            self._sample(prepare, run)
        finally:
            gc.enable()

    def _warm_up(self, prepare: Callable[[], object], run: Callable[[], object]) -> None:
        now = time.perf_counter_ns
        ends = now() + round(self.warmup_seconds * 1e9)
        while len(self.warmup_ns) < self.warmup_runs or now() < ends:
            prepare()
            start = now()
            run()
            self.warmup_ns.append(now() - start)

    def _sample(self, prepare: Callable[[], object], run: Callable[[], object]) -> None:
        now, samples = time.perf_counter_ns, self.samples_ns
        ends, room, taken = now() + round(self.min_seconds * 1e9), len(samples), 0
        while taken < room and (taken < self.min_samples or now() < ends):
            prepare()
            start = now()
            run()
            samples[taken] = now() - start
            taken += 1
        del samples[taken:]

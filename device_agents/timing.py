"""Time inferences one by one, and disturb them as little as can be."""

from __future__ import annotations

import gc
import time
from array import array
from typing import Any, Callable, TypeVar

from device_agents import clocks
from device_agents.steadiness import is_steady, median_is_known

Result = TypeVar("Result")
EMPTY_RUNS = 1001


def timed(call: Callable[[], Result]) -> tuple[int, Result]:
    """Nanoseconds that one call took, and what it returned."""
    start = time.perf_counter_ns()
    result = call()
    return time.perf_counter_ns() - start, result


def clock() -> dict[str, Any]:
    """The clock behind every figure here: its name, its nominal resolution, and what it adds to a sample, the time
    that it takes to time nothing (the median of many); in nanoseconds.
    """
    info = time.get_clock_info("perf_counter")
    nothing = sorted(timed(_nothing)[0] for _ in range(EMPTY_RUNS))
    return {
        "name": info.implementation,
        "resolution_ns": max(1, round(info.resolution * 1e9)),
        "overhead_ns": nothing[EMPTY_RUNS // 2],
    }


def _nothing() -> None:
    return


def waited_ns() -> int | None:
    """Nanoseconds that this thread was ready to run and no core was free for it (sched-stats in the kernel's
    documentation); None where the kernel does not count.
    """
    try:
        with open("/proc/thread-self/schedstat", encoding="ascii") as stream:
            return int(stream.read().split()[1])
    except (OSError, IndexError, ValueError):
        return None


class Recorder:
    """Raw times in nanoseconds: `warmup_ns`, then `samples_ns`; `steady` says whether the warm-up came to rest,
    None where it was too short to tell; `waited_ns` is how long the sampling waited for a core, None where unknown, and
    `clocks_ns` how far each of the device's clocks went meanwhile.

    Warm-up lasts until both `warmup_runs` and `warmup_seconds` are reached and the times are steady, but no longer
    than `max_warmup_seconds` for the last of these. Sampling lasts until both `min_samples` and `min_seconds` are
    reached and the median is known within `interval` (a share of it; 0: asks nothing), but no longer than
    `max_seconds` for the last of these, and ends with `max_samples` at once. Room for the samples is taken here:
    build it before memory is measured.
    """

    def __init__(
        self,
        *,
        warmup_runs: int,
        warmup_seconds: float,
        max_warmup_seconds: float,
        min_samples: int,
        min_seconds: float,
        max_samples: int,
        max_seconds: float,
        interval: float,
    ) -> None:
        self.warmup_runs = warmup_runs
        self.warmup_seconds = warmup_seconds
        self.max_warmup_seconds = max_warmup_seconds
        self.min_samples = min_samples
        self.min_seconds = min_seconds
        self.max_seconds = max_seconds
        self.interval = interval
        self.steady: bool | None = None
        self.waited_ns: int | None = None
        self.clocks_ns: dict[str, int] = {}
        self.warmup_ns = array("q")
        self.samples_ns = array("q", bytes(8 * max_samples))

    def record(
        self, prepare: Callable[[], object], run: Callable[[], object], look: Callable[[], object] = _nothing
    ) -> None:
        """Call `prepare`, then `run`, over and over; only `run` is timed. The garbage collector rests
        meanwhile. `look` is called once, between the warm-up and the first sample.
        """
        gc.collect()
        gc.disable()
        try:
            self._warm_up(prepare, run)
            look()
            before, began = waited_ns(), clocks.now_ns()
            self._sample(prepare, run)
            after, ended = waited_ns(), clocks.now_ns()
        finally:
            gc.enable()
        if before is not None and after is not None:
            self.waited_ns = after - before
        self.clocks_ns = clocks.elapsed_ns(began, ended)

    def _warm_up(self, prepare: Callable[[], object], run: Callable[[], object]) -> None:
        now = time.perf_counter_ns
        begins = now()
        enough, ends = (begins + round(each * 1e9) for each in (self.warmup_seconds, self.max_warmup_seconds))
        while True:
            if len(self.warmup_ns) >= self.warmup_runs and now() >= enough:
                self.steady = is_steady(self.warmup_ns)
                if self.steady or now() >= ends:
                    return
            prepare()
            start = now()
            run()
            self.warmup_ns.append(now() - start)

    def _sample(self, prepare: Callable[[], object], run: Callable[[], object]) -> None:
        now, samples = time.perf_counter_ns, self.samples_ns
        begins, room, taken = now(), len(samples), 0
        enough, ends = (begins + round(each * 1e9) for each in (self.min_seconds, self.max_seconds))
        # Looking is work that the next sample may feel: seldom, the more seldom the more there are.
        look = self.min_samples
        while taken < room:
            if taken >= look and now() >= enough:
                if not self.interval or now() >= ends or median_is_known(samples[:taken], self.interval):
                    break
                look = taken + max(1, taken // 2)
            prepare()
            start = now()
            run()
            samples[taken] = now() - start
            taken += 1
        del samples[taken:]

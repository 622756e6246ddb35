"""What speaks against a session as a whole: its times taken together, and what the device says of itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pipeline.measurement.doubt import Doubt
from pipeline.measurement.measurement import Measurement, Repetition
from pipeline.measurement.process_doubts import SPREAD, spread, waited

CLOCK_S = 0.5
# Of its time: what the middle one of all processes waited for a core. No wait is as short as a millisecond, or it is no
# loss; where fewer than a tenth of the samples can hold one, all up to the 90th percentile is as it was.
SHARED_CORE, SHORTEST_WAIT_NS, TOUCHED = 0.25, 1_000_000, 0.1
SLOWER_CLOCK = 0.10
DRIFT, GREAT_DRIFT, DRIFT_BY_CHANCE = 0.05, 0.25, 1e-3
# Of one core, in half of the processes.
BUSY = 0.25
# A Raspberry Pi's throttle bits: now, and since it started.
NOW, SINCE_START = 0xF, 0xF0000
# PowerManager.THERMAL_STATUS_*: light is not meant to be felt.
LIGHT, MODERATE = 1, 2


def of_figures(measurements: Mapping[str, Measurement]) -> Iterator[Doubt]:
    """Of a session whose measurements are all there: a core shared, a clock rate that moved, times that drifted."""
    yield from _shared_core(measurements)
    yield from _clock_rate(measurements)
    yield from _drift(measurements)


def of_device(measurements: Mapping[str, Measurement], environment: Mapping[str, Any]) -> Iterator[Doubt]:
    """Of what the device said `before`, `after` and beside each process."""
    yield from _throttled(measurements, environment)
    yield from _neighbours(measurements)
    before, after = environment.get("before"), environment.get("after")
    if not before or not after:
        yield Doubt(reason="the device did not say in what state it was")
        return
    load, cores = before.get("load_average"), before.get("cores")
    if load and cores and load[0] > cores:
        yield Doubt(reason=f"the device was busy before it began: load {load[0]:.1f} on {cores} cores")
    if before.get("peak_memory_resets") is False:
        yield Doubt(
            reason="the kernel does not reset the memory's high-water mark: peaks count the interpreter's start"
        )
    yield from _clocks(before.get("clocks_s"), after.get("clocks_s"))


def _repetitions(measurements: Mapping[str, Measurement]) -> list[Repetition]:
    return [each for measurement in measurements.values() for each in measurement.repetitions]


def _shared_core(measurements: Mapping[str, Measurement]) -> Iterator[Doubt]:
    """Whether the middle one of all processes had its core for less than most of the time."""
    middle = float(
        np.median([waited(each) if _touched(each) else 0.0 for each in _repetitions(measurements)])
    )
    if middle > SHARED_CORE:
        yield Doubt(
            reason=f"other programs took its core: half of all processes waited for {middle:.0%} of their time or "
            f"more (over {SHARED_CORE:.0%})",
            grave=True,
        )


def _touched(repetition: Repetition) -> bool:
    """Whether a process can have waited in so many of its samples that its figures show it."""
    waits = (repetition.waited_ns or 0) / SHORTEST_WAIT_NS
    return waits >= TOUCHED * len(repetition.samples_ns)


def _clock_rate(measurements: Mapping[str, Measurement]) -> Iterator[Doubt]:
    """Whether the fastest core, which is the one that worked, ran slower at one time than at another; grave where
    the times of a variant's processes differ as well.
    """
    rates = [
        max(found.values())
        for repetition in _repetitions(measurements)
        for when in ("frequencies_before_hz", "frequencies_hz")
        if (found := repetition.environment.get(when))
    ]
    if rates and min(rates) < (1 - SLOWER_CLOCK) * max(rates):
        apart = max(spread(measurement.repetitions) for measurement in measurements.values())
        told = f", and medians by {apart:.0%}" if apart > SPREAD else ""
        yield Doubt(
            reason=f"the processor's frequency moved: {min(rates) / 1e6:,.0f} to {max(rates) / 1e6:,.0f} MHz{told}",
            grave=apart > SPREAD,
        )


def _drift(measurements: Mapping[str, Measurement]) -> Iterator[Doubt]:
    """Whether all variants became slower, or faster, with time: the slope of their log medians over the session's
    steps, each variant about its own mean, by Student's t. Taking turns cancels a small one.
    """
    from scipy.special import stdtr

    steps, logs = [], []
    for measurement in measurements.values():
        found = np.log([np.median(repetition.samples_ns) for repetition in measurement.repetitions])
        at = np.array([repetition.step for repetition in measurement.repetitions], float)
        steps.append(at - at.mean())
        logs.append(found - found.mean())
    x, y = np.concatenate(steps), np.concatenate(logs)
    freedom, squares = len(x) - len(measurements) - 1, float(x @ x)
    if freedom < 1 or squares == 0:
        return
    slope = float(x @ y) / squares
    rest = float(np.sum((y - slope * x) ** 2))
    error = np.sqrt(rest / freedom / squares)
    by_chance = 2 * float(stdtr(freedom, -abs(slope) / error)) if error > 0 else float(slope == 0)
    change = float(np.expm1(slope * (x.max() - x.min())))
    if abs(change) > DRIFT and by_chance < DRIFT_BY_CHANCE:
        yield Doubt(
            reason=f"times drifted by {change:+.0%} over the session; a hot device grows slower",
            grave=abs(change) > GREAT_DRIFT,
        )


def _throttled(measurements: Mapping[str, Measurement], environment: Mapping[str, Any]) -> Iterator[Doubt]:
    """A board that says it ran slower than it can has no figures of its own."""
    before, after = (environment.get(when) or {} for when in ("before", "after"))
    beside = [repetition.environment.get("throttled") for repetition in _repetitions(measurements)]
    bits = [each for each in (*beside, after.get("throttled")) if each is not None]
    known = (before.get("throttled") or 0) & SINCE_START
    for each in bits:
        if each & NOW or each & SINCE_START & ~known:
            yield Doubt(
                reason=f"the board was throttled or short of voltage (vcgencmd get_throttled: {each:#x})",
                grave=True,
            )
            break
    status = max((state.get("thermal_status") or 0 for state in (before, after)), default=0)
    if status >= LIGHT:
        yield Doubt(
            reason=f"the phone was throttled for heat (thermal status {status})", grave=status >= MODERATE
        )


def _neighbours(measurements: Mapping[str, Measurement]) -> Iterator[Doubt]:
    """Another program that worked beside half of the processes or more, by whatever core."""
    shares: dict[str, list[float]] = {}
    repetitions = _repetitions(measurements)
    for repetition in repetitions:
        together: dict[str, float] = {}
        for each in repetition.environment.get("neighbours") or []:
            together[str(each["name"])] = together.get(str(each["name"]), 0.0) + float(each["share"])
        for name, share in together.items():
            shares.setdefault(name, []).append(share)
    for name, found in shares.items():
        busy = [share for share in found if share > BUSY]
        if 2 * len(busy) >= len(repetitions):
            yield Doubt(
                reason=f"another program was at work: {name} took {np.median(busy):.0%} of a core beside "
                f"{len(busy)} of {len(repetitions)} processes"
            )


def _clocks(before: Mapping[str, float] | None, after: Mapping[str, float] | None) -> Iterator[Doubt]:
    """The clock behind the samples stands still while a device sleeps, the one since boot does not."""
    if not before or not after:
        return
    passed = {name: after[name] - before[name] for name in ("monotonic", "boottime", "realtime")}
    if passed["boottime"] - passed["monotonic"] > CLOCK_S:
        yield Doubt(reason=f"the device slept for {passed['boottime'] - passed['monotonic']:.1f} s")
    if abs(passed["realtime"] - passed["boottime"]) > CLOCK_S:
        yield Doubt(reason=f"its wall clock was moved by {passed['realtime'] - passed['boottime']:+.1f} s")

"""May a measurement be believed?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from pipeline.measurement.measurement import Measurement, MemoryReading, Record, Repetition

SPREAD = 0.25
CLOCK_S = 0.5
# Of the time that sampling took: what a process that shares its core waits for.
WAITED = 0.02
SLOWER_CLOCK = 0.10
DRIFT, DRIFT_BY_CHANCE = 0.05, 1e-3
# Of memory, between two counters of one thing.
COUNTERS, COUNTERS_BYTES = 0.01, 256 << 10


class Validity(Record):
    """valid, suspect (believe it with care) or invalid (do not compare it), and why."""

    state: Literal["valid", "suspect", "invalid"]
    reasons: tuple[str, ...] = ()


def check(measurements: Mapping[str, Measurement], environment: Mapping[str, Any], expected: int) -> Validity:
    """Judge a session in which each variant was to have `expected` repetitions.

    `environment` holds the device's state under `before` and `after`.
    """
    invalid, suspect = [], []
    for name, measurement in measurements.items():
        received = len(measurement.repetitions)
        if received != expected:
            invalid.append(f"{name}: {received} repetitions, expected {expected}")
        elif any(min(repetition.samples_ns, default=0) <= 0 for repetition in measurement.repetitions):
            invalid.append(f"{name}: a sample took no time at all; the device's clock is too coarse")
        else:
            suspect += [f"{name}: {reason}" for reason in _processes(measurement.repetitions)]
    if not invalid:
        suspect += [*_clock_rate(measurements), *_drift(measurements)]
    suspect += _environment(environment)
    if invalid:
        return Validity(state="invalid", reasons=tuple(invalid + suspect))
    return Validity(state="suspect" if suspect else "valid", reasons=tuple(suspect))


def _processes(repetitions: Sequence[Repetition]) -> Iterator[str]:
    """What is wrong with the processes of one variant."""
    if any(repetition.memory.steady.swap for repetition in repetitions):
        yield "a part of its memory was swapped out"
    medians = [float(np.median(repetition.samples_ns)) for repetition in repetitions]
    spread = max(medians) / min(medians) - 1
    if spread > SPREAD:
        yield f"the medians of its processes differ by {spread:.0%} (over {SPREAD:.0%})"
    restless = sum(repetition.steady is False for repetition in repetitions)
    if restless:
        yield f"{restless} of {len(repetitions)} processes were not steady when sampling began"
    waited = max((_waited(repetition) for repetition in repetitions), default=0.0)
    if waited > WAITED:
        yield f"other programs took its core: a process waited for {waited:.0%} of its time (over {WAITED:.0%})"
    for repetition in repetitions:
        if difference := _disagreement(repetition.memory.steady):
            yield f"two counters of its resident memory differ by {difference:,} bytes"
            break


def _waited(repetition: Repetition) -> float:
    waited = repetition.waited_ns or 0
    return waited / (waited + sum(repetition.samples_ns))


def _disagreement(reading: MemoryReading) -> int:
    """By how much the quick counter of what is resident and the one that counts pages differ, if by too much."""
    if reading.rss_by_page is None:
        return 0
    difference = abs(reading.rss - reading.rss_by_page)
    return difference if difference > max(COUNTERS_BYTES, COUNTERS * reading.rss_by_page) else 0


def _clock_rate(measurements: Mapping[str, Measurement]) -> Iterator[str]:
    """Whether the fastest core, which is the one that worked, ran slower in one process than in another."""
    rates = [
        max(found.values())
        for measurement in measurements.values()
        for repetition in measurement.repetitions
        if (found := repetition.environment.get("frequencies_hz"))
    ]
    if rates and min(rates) < (1 - SLOWER_CLOCK) * max(rates):
        yield f"the processor's frequency moved: {min(rates) / 1e6:,.0f} to {max(rates) / 1e6:,.0f} MHz"


def _drift(measurements: Mapping[str, Measurement]) -> Iterator[str]:
    """Whether all variants became slower, or faster, with time: the slope of their log medians over the session's
    steps, each variant about its own mean, by Student's t.
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
        yield f"times drifted by {change:+.0%} over the session; a hot device grows slower"


def _environment(environment: Mapping[str, Any]) -> Sequence[str]:
    before, after = environment.get("before"), environment.get("after")
    if not before or not after:
        return ["the device did not say in what state it was"]
    reasons = []
    load, cores = before.get("load_average"), before.get("cores")
    if load and cores and load[0] > cores:
        reasons.append(f"the device was busy before it began: load {load[0]:.1f} on {cores} cores")
    now, then = after.get("throttled"), before.get("throttled")
    if now is not None and (now & 0xF or (now & 0xF0000) != ((then or 0) & 0xF0000)):
        reasons.append(f"the board was throttled or short of voltage (vcgencmd get_throttled: {now:#x})")
    if before.get("peak_memory_resets") is False:
        reasons.append(
            "the kernel does not reset the memory's high-water mark: peaks count the interpreter's start"
        )
    return [*reasons, *_clocks(before.get("clocks_s"), after.get("clocks_s"))]


def _clocks(before: Mapping[str, float] | None, after: Mapping[str, float] | None) -> Sequence[str]:
    """The clock behind the samples stands still while a device sleeps, the one since boot does not."""
    if not before or not after:
        return []
    passed = {name: after[name] - before[name] for name in ("monotonic", "boottime", "realtime")}
    reasons = []
    if passed["boottime"] - passed["monotonic"] > CLOCK_S:
        reasons.append(f"the device slept for {passed['boottime'] - passed['monotonic']:.1f} s")
    if abs(passed["realtime"] - passed["boottime"]) > CLOCK_S:
        reasons.append(f"its wall clock was moved by {passed['realtime'] - passed['boottime']:+.1f} s")
    return reasons

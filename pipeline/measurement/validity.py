"""May a measurement be believed?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from pipeline.measurement.measurement import Measurement, Record

SPREAD = 0.25
CLOCK_S = 0.5


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
            medians = [float(np.median(repetition.samples_ns)) for repetition in measurement.repetitions]
            if any(repetition.memory.steady.swap for repetition in measurement.repetitions):
                suspect.append(f"{name}: a part of its memory was swapped out")
            spread = max(medians) / min(medians) - 1
            if spread > SPREAD:
                suspect.append(
                    f"{name}: the medians of its processes differ by {spread:.0%} (over {SPREAD:.0%})"
                )
    suspect += _environment(environment)
    if invalid:
        return Validity(state="invalid", reasons=tuple(invalid + suspect))
    return Validity(state="suspect" if suspect else "valid", reasons=tuple(suspect))


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

"""May a measurement be believed?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pipeline.measurement import process_doubts, session_doubts
from pipeline.measurement.doubt import Doubt
from pipeline.measurement.measurement import Measurement, Record


class Validity(Record):
    """valid, suspect (believe it with care) or invalid (do not compare it), and why."""

    state: Literal["valid", "suspect", "invalid"]
    reasons: tuple[str, ...] = ()


def check(measurements: Mapping[str, Measurement], environment: Mapping[str, Any], expected: int) -> Validity:
    """Judge a session in which each variant was to have `expected` repetitions.

    `environment` holds the device's state under `before` and `after`. Invalid is what lacks figures, whose ruler was
    wrong, or whose figures show what the device says of itself; a cause without its effect, or an effect without its
    cause, makes it suspect. Of an emulated device, whose times are those of another machine, only a lack of figures
    makes it invalid.
    """
    lacks = [
        f"{name}: {lack}"
        for name, measurement in measurements.items()
        if (lack := _lack(measurement, expected))
    ]
    doubts: list[Doubt] = []
    for name, measurement in measurements.items():
        if _lack(measurement, expected) is None:
            doubts += [doubt.about(name) for doubt in process_doubts.find(measurement.repetitions)]
    if not lacks:
        doubts += session_doubts.of_figures(measurements)
    doubts += session_doubts.of_device(measurements, environment)
    return _judged(lacks, doubts, any(measurement.emulated for measurement in measurements.values()))


def _judged(lacks: Sequence[str], doubts: Sequence[Doubt], emulated: bool) -> Validity:
    """The gravest first, each once."""
    grave = [*lacks, *(doubt.reason for doubt in doubts if doubt.grave)]
    reasons = tuple(dict.fromkeys([*grave, *(doubt.reason for doubt in doubts)]))
    if lacks or (grave and not emulated):
        return Validity(state="invalid", reasons=reasons)
    return Validity(state="suspect" if reasons else "valid", reasons=reasons)


def _lack(measurement: Measurement, expected: int) -> str | None:
    received = len(measurement.repetitions)
    if received != expected:
        return f"{received} repetitions, expected {expected}"
    if any(min(repetition.samples_ns, default=0) <= 0 for repetition in measurement.repetitions):
        return "a sample took no time at all; the device's clock is too coarse"
    return None

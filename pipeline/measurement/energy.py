"""What an inference costs in energy, by each meter of the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.measurement.measurement import MeterReadings, Record, Spent


class MeterFigures(Record):
    """Mean watts while the device inferred back to back and while it rested; joules an inference, and those of it that
    rest would not have cost. Null where the meter told nothing in that time."""

    meter: str
    leaves_out: str
    watts: float | None
    idle_watts: float | None
    joules: float | None
    joules_above_idle: float | None

    @property
    def sentence(self) -> str:
        """The figures in words."""
        left_out = f"{self.meter}, which leaves out {self.leaves_out}"
        if self.watts is None or self.joules is None:
            return f"energy: no reading while it inferred, by {left_out}"
        rest = ""
        if self.idle_watts is not None and self.joules_above_idle is not None:
            rest = f", {self.joules_above_idle * 1e3:.3g} mJ above rest ({self.idle_watts:.3g} W)"
        return f"energy: {self.joules * 1e3:.3g} mJ an inference ({self.watts:.3g} W){rest}, by {left_out}"


class Energy(Record):
    """The figures of each meter; none where the device has no meter that it lets us read."""

    inferences: int
    meters: tuple[MeterFigures, ...]

    @property
    def sentence(self) -> str:
        """What came of it, in words."""
        told = "; ".join(each.sentence for each in self.meters)
        return told or "energy: not known, for the device has no meter that may be read"


def summarise(spent: Spent) -> Energy:
    """Of a process that was to show what it spends."""
    each = (spent.ended - spent.began) / spent.inferences if spent.inferences else 0.0
    return Energy(inferences=spent.inferences, meters=tuple(_figures(meter, each) for meter in spent.meters))


def _figures(meter: MeterReadings, seconds: float) -> MeterFigures:
    """`seconds` is what an inference takes, back to back."""
    watts, idle = _mean(meter.watts, meter.seconds), _mean(meter.idle_watts, meter.idle_seconds)
    return MeterFigures(
        meter=meter.name,
        leaves_out=meter.leaves_out,
        watts=watts,
        idle_watts=idle,
        joules=None if watts is None else watts * seconds,
        joules_above_idle=None if watts is None or idle is None else (watts - idle) * seconds,
    )


def _mean(watts: Sequence[float], seconds: Sequence[float]) -> float | None:
    """A reading that tells of twice as long counts twice; all alike where each is of a moment."""
    if not watts:
        return None
    return float(np.average(watts, weights=seconds if any(seconds) else None))

"""A model invoked back to back for minutes: what became of its times."""

from __future__ import annotations

import numpy as np

from pipeline.measurement.measurement import Record, Sustained

# Told as a thermal drift from here on, to either side.
DRIFT = 0.05


class Endurance(Record):
    """Medians over the first and the last quarter of the time, in milliseconds; `change` is the latter over the
    former, less one; `slope_per_minute` that of a straight line through the windows' medians, in milliseconds.
    Temperatures of the warmest zone in Celsius."""

    seconds: float
    inferences: int
    first_ms: float
    last_ms: float
    change: float
    slope_per_minute: float
    first_c: float | None
    last_c: float | None

    @property
    def sentence(self) -> str:
        """What came of it, in words."""
        warmer = ""
        if self.first_c is not None and self.last_c is not None:
            warmer = f", {self.first_c:.0f} to {self.last_c:.0f} C"
        drift = "thermal drift: " if abs(self.change) > DRIFT else ""
        return (
            f"{drift}back to back for {self.seconds:.0f} s the last quarter's median was {self.change:+.1%} beside "
            f"the first's, {self.first_ms:.4g} to {self.last_ms:.4g} ms, {self.slope_per_minute:+.2g} ms a "
            f"minute{warmer}"
        )


def summarise(sustained: Sustained) -> Endurance:
    """Of at least one window."""
    windows = sustained.windows
    medians = np.array([window.median_ns for window in windows]) / 1e6
    minutes = np.array([window.at_s for window in windows]) / 60
    quarter = max(1, len(windows) // 4)
    first, last = float(np.median(medians[:quarter])), float(np.median(medians[-quarter:]))
    spread = float(np.sum((minutes - minutes.mean()) ** 2))
    slope = float((minutes - minutes.mean()) @ medians) / spread if spread else 0.0
    return Endurance(
        seconds=sustained.seconds,
        inferences=sum(window.count for window in windows),
        first_ms=first,
        last_ms=last,
        change=last / first - 1,
        slope_per_minute=slope,
        first_c=windows[0].temperature_c,
        last_c=windows[-1].temperature_c,
    )

"""What a night's job on one device yields, and what is known of that device and model from the nights before."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from pipeline.measurement.measurement import Measurement
from pipeline.measurement.validity import Validity
from pipeline.models.metrics import Direction
from pipeline.plan_section import Section

# Of every job: the candidate, the baseline, the baseline once more (A/A), and the pinned model that tells what the
# device does.
VARIANTS = ("candidate", "baseline", "again", "canary")
Metric = Literal["latency", "memory", "size", "metric"]
METRICS: tuple[Metric, ...] = get_args(Metric)
# Nights of a segment that are looked at.
WINDOW = 60


class Thresholds(Section):
    """What is a regression: for the worse by more than this share, of the metric by more than this in its own units."""

    latency: float = 0.005
    memory: float = 0.02
    size: float = 0.0
    metric: float = 0.0
    # A device that cannot show a slowdown of this share is not judged.
    detectable: float = 0.10


@dataclass(frozen=True)
class Session:
    """One session in which the VARIANTS took turns; `file_bytes` by variant."""

    measurements: dict[str, Measurement]
    validity: Validity
    file_bytes: dict[str, int]

    def logs(self, variant: str, other: str) -> np.ndarray:
        """(repetitions,): the log ratios of the median latencies of processes that ran next to each other."""
        difference: np.ndarray = self.latencies(variant) - self.latencies(other)
        return difference

    def latencies(self, variant: str) -> np.ndarray:
        """(repetitions,): the logs of the processes' median latencies, in nanoseconds."""
        repetitions = self.measurements[variant].repetitions
        logs: np.ndarray = np.log([float(np.median(each.samples_ns)) for each in repetitions])
        return logs

    def memory(self, variant: str) -> float:
        """What the typical process grew by at most, in bytes."""
        repetitions = self.measurements[variant].repetitions
        return float(np.median([each.memory.peak_added for each in repetitions]))


@dataclass(frozen=True)
class Past:
    """The nights before, of the same segment only, oldest first: A/A pairs `own` (nights, pairs), candidate over canary
    `ratios` and the canary's own `levels` (nights,), all logs."""

    own: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    ratios: np.ndarray = field(default_factory=lambda: np.zeros(0))
    levels: np.ndarray = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True)
class Case:
    """A job of the night: tonight's session, or why there is none, the past, and what of it is judged at all."""

    plan: str
    target: str
    direction: Direction
    session: Session | None
    problem: str = ""
    past: Past = field(default_factory=Past)
    thresholds: Thresholds = field(default_factory=Thresholds)
    judged: tuple[Metric, ...] = METRICS

"""From raw samples to figures with intervals. Repetitions, not samples, are what is independent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.measurement import cold, deadlines, endurance, energy
from pipeline.measurement.cold import Cold
from pipeline.measurement.deadlines import Deadlines
from pipeline.measurement.endurance import Endurance
from pipeline.measurement.energy import Energy
from pipeline.measurement.measurement import Measurement, Record

CONFIDENCE = 0.95


class Estimate(Record):
    """A figure and its 95 % interval, null where there are too few repetitions for one."""

    value: float
    low: float | None
    high: float | None


class Summary(Record):
    """The figures of one measurement: milliseconds and bytes."""

    samples: int
    load_ms: float
    first_ms: float
    minimum_ms: float
    p50_ms: Estimate
    p90_ms: Estimate
    p95_ms: Estimate | None = None
    p99_ms: Estimate
    p999_ms: Estimate | None = None
    peak_memory_bytes: int
    steady_memory_bytes: int
    process_peak_bytes: int
    metric: float | None
    cold: Cold | None = None
    deadlines: Deadlines | None = None
    endurance: Endurance | None = None
    energy: Energy | None = None

    @property
    def sentences(self) -> list[str]:
        """What came of cold starts, and of invoking the model at a fixed rate, for long, and beside a meter, where that
        was asked for."""
        asked = (self.deadlines, self.endurance, self.energy)
        cold = [self.cold.beside(self.load_ms, self.first_ms)] if self.cold else []
        return cold + [found.sentence for found in asked if found is not None]


def summarise(measurement: Measurement) -> Summary:
    """The summary of a measurement with at least one repetition; what each has once is the median over them."""
    repetitions = measurement.repetitions
    samples = [np.asarray(repetition.samples_ns) / 1e6 for repetition in repetitions]
    paced = [repetition.paced for repetition in repetitions if repetition.paced]
    p50, p90, p95, p99, p999 = (percentile(samples, share) for share in (50, 90, 95, 99, 99.9))
    return Summary(
        samples=sum(map(len, samples)),
        load_ms=float(np.median([repetition.load_ns for repetition in repetitions])) / 1e6,
        first_ms=float(np.median([repetition.first_ns for repetition in repetitions])) / 1e6,
        minimum_ms=float(min(part.min() for part in samples)),
        p50_ms=p50,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
        p999_ms=p999,
        peak_memory_bytes=max(repetition.memory.peak_added for repetition in repetitions),
        steady_memory_bytes=int(np.median([repetition.memory.steady_added for repetition in repetitions])),
        process_peak_bytes=max(repetition.memory.steady.hwm for repetition in repetitions),
        metric=measurement.metric,
        cold=cold.summarise(measurement.cold) if measurement.cold else None,
        deadlines=deadlines.summarise(paced) if paced else None,
        endurance=endurance.summarise(measurement.sustained) if measurement.sustained else None,
        energy=energy.summarise(measurement.spent) if measurement.spent else None,
    )


def percentile(repetitions: Sequence[np.ndarray], share: float) -> Estimate:
    """The typical process's percentile: the geometric mean of the repetitions' own, and its interval.

    Every process counts alike, however many samples it had time for; samples of one process resemble each other,
    so that only the processes tell how uncertain the figure is. The quotient of two such figures is `ratio`'s.
    """
    return _mean_of_logs(np.log([np.percentile(samples, share) for samples in repetitions]))


def ratio(variant: Measurement, other: Measurement) -> Estimate:
    """How many times `other`'s median latency `variant`'s is, from the interleaved pairs of repetitions.

    The k-th repetitions of both ran next to each other, so that slow drift cancels in
    d_k = log(median variant_k) - log(median other_k).
    """
    pairs = zip(variant.repetitions, other.repetitions, strict=True)
    return _mean_of_logs(
        np.array([np.log(np.median(a.samples_ns) / np.median(b.samples_ns)) for a, b in pairs])
    )


def _mean_of_logs(logs: np.ndarray) -> Estimate:
    """exp of the mean, with Student's interval for the mean: mean -+ t(n - 1) s / sqrt(n)."""
    from scipy.special import stdtrit

    mean, count = float(logs.mean()), len(logs)
    if count < 2:
        return Estimate(value=float(np.exp(mean)), low=None, high=None)
    half = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2) * logs.std(ddof=1) / np.sqrt(count))
    return Estimate(
        value=float(np.exp(mean)), low=float(np.exp(mean - half)), high=float(np.exp(mean + half))
    )

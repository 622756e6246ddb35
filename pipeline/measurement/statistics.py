"""From raw samples to figures with intervals. Repetitions, not samples, are what is independent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.measurement.measurement import Measurement, Record

CONFIDENCE = 0.95
RESAMPLES = 2000


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
    p99_ms: Estimate
    peak_memory_bytes: int
    steady_memory_bytes: int
    process_peak_bytes: int
    metric: float | None


def summarise(measurement: Measurement) -> Summary:
    """The summary of a measurement with at least one repetition; what each has once is the median over them."""
    repetitions = measurement.repetitions
    samples = [np.asarray(repetition.samples_ns) / 1e6 for repetition in repetitions]
    p50, p90, p99 = (percentile(samples, share) for share in (50, 90, 99))
    return Summary(
        samples=sum(map(len, samples)),
        load_ms=float(np.median([repetition.load_ns for repetition in repetitions])) / 1e6,
        first_ms=float(np.median([repetition.first_ns for repetition in repetitions])) / 1e6,
        minimum_ms=float(min(part.min() for part in samples)),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        peak_memory_bytes=max(repetition.memory.peak_added for repetition in repetitions),
        steady_memory_bytes=int(np.median([repetition.memory.steady_added for repetition in repetitions])),
        process_peak_bytes=max(repetition.memory.steady.hwm for repetition in repetitions),
        metric=measurement.metric,
    )


def percentile(repetitions: Sequence[np.ndarray], share: float) -> Estimate:
    """A percentile of all samples; its interval resamples whole repetitions (cluster bootstrap, Efron 1979).

    Samples of one process resemble each other, so resampling them one by one would claim too narrow an interval.
    The resampling is seeded: the same samples give the same interval.
    """
    value = float(np.percentile(np.concatenate(repetitions), share))
    if len(repetitions) < 2:
        return Estimate(value=value, low=None, high=None)
    random = np.random.default_rng(0)
    weights = random.multinomial(len(repetitions), [1 / len(repetitions)] * len(repetitions), RESAMPLES)
    order = np.argsort(np.concatenate(repetitions), kind="stable")
    ordered = np.concatenate(repetitions)[order]
    owner = np.repeat(np.arange(len(repetitions)), [len(part) for part in repetitions])[order]
    tops = []
    for drawn in weights:
        reached = np.cumsum(drawn[owner])
        tops.append(ordered[np.searchsorted(reached, share / 100 * reached[-1])])
    tail = (1 - CONFIDENCE) / 2 * 100
    low, high = np.percentile(tops, [tail, 100 - tail])
    return Estimate(value=value, low=min(float(low), value), high=max(float(high), value))


def ratio(variant: Measurement, other: Measurement) -> Estimate:
    """How many times `other`'s median latency `variant`'s is, from the interleaved pairs of repetitions.

    The k-th repetitions of both ran next to each other, so that slow drift cancels in
    d_k = log(median variant_k) - log(median other_k); the interval is Student's for the mean of d.
    """
    from scipy.special import stdtrit

    pairs = list(zip(variant.repetitions, other.repetitions, strict=False))
    differences = np.array(
        [np.log(np.median(a.samples_ns)) - np.log(np.median(b.samples_ns)) for a, b in pairs]
    )
    mean = float(differences.mean())
    if len(pairs) < 2:
        return Estimate(value=float(np.exp(mean)), low=None, high=None)
    spread = float(differences.std(ddof=1)) / np.sqrt(len(pairs))
    half = float(stdtrit(len(pairs) - 1, (1 + CONFIDENCE) / 2)) * spread
    return Estimate(
        value=float(np.exp(mean)), low=float(np.exp(mean - half)), high=float(np.exp(mean + half))
    )

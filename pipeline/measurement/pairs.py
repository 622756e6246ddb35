"""Candidate against baseline in one night, from interleaved pairs: how much slower, how sure, how often by chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class PairedTest:
    """For each series: `change`, the mean log of candidate over baseline, its 95 % interval, and `p`, how often chance
    alone would show a change so much for the worse. All (...,); exp(change) is a ratio.
    """

    change: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray


def paired_test(logs: np.ndarray, between: np.ndarray | float = 0.0, nights: float = np.inf) -> PairedTest:
    """Test `logs` (..., n), log(candidate_k / baseline_k) of pairs that ran next to each other, against no change.

    Pairs of one session share what that session was like: where one file is measured twice, the means of two sessions
    differ by more than their pairs tell. That standard deviation `between` (...,), known from so many A/A `nights`
    (see `error_rates`), sets a floor:

        t = mean(d) / sqrt(s^2 / n + between^2),  with the degrees of freedom of Welch and Satterthwaite.

    Raises `ValueError` for fewer than two pairs.
    """
    from scipy.special import stdtr, stdtrit

    count = logs.shape[-1]
    if count < 2:
        raise ValueError(f"expected two pairs or more, received {count}")
    change = logs.mean(axis=-1)
    within, floor = logs.var(axis=-1, ddof=1) / count, np.square(between)
    variance = within + floor
    doubt = within**2 / (count - 1) + floor**2 / nights
    freedom = np.divide(variance**2, doubt, out=np.full_like(variance, 1e9), where=doubt > 0)
    error = np.sqrt(variance)
    half = stdtrit(freedom, (1 + CONFIDENCE) / 2) * error
    certain = np.where(change > 0, np.inf, -np.inf)
    t = np.divide(change, error, out=certain, where=error > 0)
    p = np.where(
        np.isfinite(t), stdtr(freedom, -np.where(np.isfinite(t), t, 0.0)), (change <= 0).astype(float)
    )
    return PairedTest(change, change - half, change + half, p)

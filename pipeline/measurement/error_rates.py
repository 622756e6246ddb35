"""What a device's own A/A pairs say of it: how often it cries wolf, and the smallest regression it can show."""

from __future__ import annotations

import numpy as np

from pipeline.measurement.alarms import SUSPECT_IN_THE_NIGHT
from pipeline.measurement.measurement import Record
from pipeline.measurement.pairs import paired_test

POWER = 0.95
# Of the variance between sessions the upper bound that holds in so many of all cases: few nights know it badly.
BOUND = 0.9
# What two sessions differ by until a device has shown its own: nights fewer than `ENOUGH` say little.
ASSUMED = 0.003
ENOUGH = 8


class ErrorRates(Record):
    """Of one device: `nights` of A/A pairs; `between`, by how much sessions differ (log ratio, standard deviation);
    `false_alarm_rate`, the share of A/A nights that would have been suspected, and `false_alarm_bound`, below which it
    is with 95 % confidence; `detectable`, the smallest slowdown that a night finds in 95 % of all cases, as a share.
    """

    nights: int
    pairs: int
    between: float
    false_alarm_rate: float | None
    false_alarm_bound: float | None
    detectable: float | None


def between_sessions(logs: np.ndarray) -> np.ndarray:
    """The standard deviation (...,) of what sessions differ by beside their pairs' own noise.

    From A/A pairs `logs` (..., nights, n), log ratios of one file with itself:

        Var(night means) = between^2 + E[s^2 / n]

    solved for its upper bound, the left side with its chi-square bound; never below a third of it.
    """
    from scipy.special import chdtri

    nights, pairs = logs.shape[-2:]
    if nights < ENOUGH:
        return np.full(logs.shape[:-2], ASSUMED)
    seen = logs.mean(axis=-1).var(axis=-1, ddof=1) * (nights - 1) / chdtri(nights - 1, BOUND)
    within = (logs.var(axis=-1, ddof=1) / pairs).mean(axis=-1)
    between: np.ndarray = np.sqrt(np.maximum(seen - within, seen / 9))
    return between


def error_rates(logs: np.ndarray) -> ErrorRates:
    """The rates of a device from its A/A pairs `logs` (nights, n). Each night is judged by what the others say of the
    device, so that it does not vouch for itself."""
    from scipy.special import betaincinv, stdtrit

    nights, pairs = logs.shape
    between = float(between_sessions(logs))
    if nights == 0 or pairs < 2:
        return ErrorRates(
            nights=nights,
            pairs=pairs,
            between=between,
            false_alarm_rate=None,
            false_alarm_bound=None,
            detectable=None,
        )
    others = np.stack([np.delete(logs, night, axis=0) for night in range(nights)])
    judged = paired_test(logs, between_sessions(others), max(nights - 2, 1))
    false = int((judged.p <= SUSPECT_IN_THE_NIGHT).sum())
    bound = float(betaincinv(false + 1, nights - false, 0.95)) if false < nights else 1.0
    error = float(np.sqrt(np.median(logs.var(axis=-1, ddof=1)) / pairs + between**2))
    needed = float(stdtrit(pairs - 1, 1 - SUSPECT_IN_THE_NIGHT) + stdtrit(pairs - 1, POWER))
    return ErrorRates(
        nights=nights,
        pairs=pairs,
        between=between,
        false_alarm_rate=false / nights,
        false_alarm_bound=bound,
        detectable=float(np.expm1(needed * error)),
    )

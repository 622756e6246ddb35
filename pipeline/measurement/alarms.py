"""From suspicions to alarms: a rerun that was independent, and a correction for how many series there are."""

from __future__ import annotations

import numpy as np

# A suspicion is rerun when chance shows its like less often than this.
SUSPECT_IN_THE_NIGHT = 2e-2
SUSPECT_OVER_NIGHTS = 1e-4
# Where nothing changed, how often a night has any alarm among all its series. A step over the nights is looked for anew
# every night in the same figures: there less is left to chance.
FALSE_IN_THE_NIGHT = 1e-3
FALSE_OVER_NIGHTS = 1e-4


def two_stage(first: np.ndarray, confirmed: np.ndarray, alpha: float) -> np.ndarray:
    """The p of a finding that is rerun only where `first` is at most `alpha`; `confirmed` is the rerun's. (...,).

    P(first <= alpha and confirmed <= x) is at most alpha x, whatever made the first look as it did. What was not
    rerun keeps its first p, which is above alpha.
    """
    return np.where(first <= alpha, alpha * confirmed, np.maximum(first, alpha))


def benjamini_hochberg(p: np.ndarray, rate: float) -> np.ndarray:
    """Which of p (m,) are findings, of which the share `rate` is expected to be false (Benjamini & Hochberg 1995).

    The k smallest, for the greatest k with p_(k) <= k rate / m.
    """
    order = np.argsort(p, kind="stable")
    passing = p[order] <= rate * np.arange(1, len(p) + 1) / max(len(p), 1)
    found = np.zeros(len(p), bool)
    if passing.any():
        found[order[: int(np.flatnonzero(passing)[-1]) + 1]] = True
    return found

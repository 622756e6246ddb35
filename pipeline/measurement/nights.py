"""One night of many series: suspicions, the reruns that they ask for, and the alarms that are left."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.measurement.alarms import (
    FALSE_IN_THE_NIGHT,
    FALSE_OVER_NIGHTS,
    SUSPECT_IN_THE_NIGHT,
    SUSPECT_OVER_NIGHTS,
    benjamini_hochberg,
    two_stage,
)
from pipeline.measurement.change_points import Scan, confirm_step, scan
from pipeline.measurement.pairs import PairedTest, paired_test

# Sessions that are run anew where something is suspected.
RERUNS = 3


@dataclass(frozen=True)
class Suspicion:
    """Of each series (m,): the p of the night's pairs and of the nights before with it, 1 where the change is below the
    series' threshold; `pairs` and `steps` are what they came from. `steps` is None while the series are too short."""

    pairs: PairedTest
    steps: Scan | None
    p_pairs: np.ndarray
    p_steps: np.ndarray

    @property
    def rerun(self) -> np.ndarray:
        """Which series must be measured anew before anything is said of them."""
        return (self.p_pairs <= SUSPECT_IN_THE_NIGHT) | (self.p_steps <= SUSPECT_OVER_NIGHTS)


def suspect(
    logs: np.ndarray,
    series: np.ndarray | None,
    between: np.ndarray | float,
    nights: float,
    threshold: np.ndarray | float,
) -> Suspicion:
    """Look at one night. `logs` (m, n) are the log ratios of candidate over baseline, pair by pair, `series`
    (m, nights) those of candidate over canary, one a night with this one the last, or None; `between` and `nights` are
    the device's (see `paired_test`); changes below `threshold`, a share, are none.
    """
    least = np.log1p(threshold)
    pairs = paired_test(logs, between, nights)
    p_pairs = np.where(pairs.change >= least, pairs.p, 1.0)
    if series is None:
        return Suspicion(pairs, None, p_pairs, np.ones_like(p_pairs))
    steps = scan(series)
    return Suspicion(pairs, steps, p_pairs, np.where(steps.step >= least, steps.p, 1.0))


def confirm_pairs(
    again: np.ndarray, between: np.ndarray | float, nights: float, threshold: np.ndarray | float
) -> np.ndarray:
    """The p of the rerun's pairs `again` (m, n); sessions of one night are not taken for independent."""
    found = paired_test(again, between, nights)
    return np.where(found.change >= np.log1p(threshold), found.p, 1.0)


def confirm_steps(
    series: np.ndarray, at: np.ndarray, alike: np.ndarray, again: np.ndarray, threshold: np.ndarray | float
) -> np.ndarray:
    """The p of the rerun's sessions `again` (m, RERUNS) against each series' nights before its step."""
    found = np.ones(len(series))
    for row, (values, cut) in enumerate(zip(series, at, strict=True)):
        if again[row].mean() - values[:cut].mean() >= np.log1p(np.broadcast_to(threshold, len(series))[row]):
            found[row] = confirm_step(values[:cut], again[row], alike[row])
    return found


def alarms(
    p_pairs: np.ndarray, confirmed_pairs: np.ndarray, p_steps: np.ndarray, confirmed_steps: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which series (m,) regressed in the night, and which over the nights, each corrected for all series of the night.
    The p of reruns that were not made does not count.
    """
    pairs = two_stage(p_pairs, confirmed_pairs, SUSPECT_IN_THE_NIGHT)
    steps = two_stage(p_steps, confirmed_steps, SUSPECT_OVER_NIGHTS)
    return benjamini_hochberg(pairs, FALSE_IN_THE_NIGHT), benjamini_hochberg(steps, FALSE_OVER_NIGHTS)

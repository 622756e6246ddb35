"""Latencies of a night: each series looked at by all that is known of its device, and all corrected together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.farm.case import WINDOW, Case, Session
from pipeline.measurement import nights
from pipeline.measurement.alarms import SUSPECT_OVER_NIGHTS
from pipeline.measurement.change_points import SHORTEST, change_points
from pipeline.measurement.error_rates import ENOUGH, ErrorRates, between_sessions, error_rates

# Nights for which it is said that a device changed.
RECENT = 10


@dataclass(frozen=True)
class Look:
    """One series tonight: what is seen of it, `ratios` (nights,) of candidate over canary, what sessions of the device
    differ by, and its own step, which the canary shows; None: none of late."""

    seen: nights.Suspicion
    ratios: np.ndarray
    between: float
    known: int
    rates: ErrorRates
    device_step: float | None

    @property
    def suspected(self) -> bool:
        """Is it to be measured anew?"""
        return bool(self.seen.rerun[0])

    @property
    def change(self) -> float:
        """Tonight's log ratio."""
        return float(self.seen.pairs.change[0])

    @property
    def low(self) -> float:
        """The lower end of its 95 % interval."""
        return float(self.seen.pairs.low[0])

    @property
    def high(self) -> float:
        """The upper end."""
        return float(self.seen.pairs.high[0])

    @property
    def step(self) -> float:
        """The likeliest step over the nights."""
        return 0.0 if self.seen.steps is None else float(self.seen.steps.step[0])

    @property
    def nights_ago(self) -> int:
        """How many nights the new level has lasted."""
        return 0 if self.seen.steps is None else len(self.ratios) - int(self.seen.steps.at[0])


def look(case: Case) -> Look:
    """Look at a case that has a session: its pairs, its nights, its device."""
    session, past = case.session, case.past
    assert session is not None
    tonight = session.logs("again", "baseline")
    # Nights with another number of processes are another protocol's.
    own = np.stack([*(row for row in past.own if len(row) == len(tonight)), tonight])[-WINDOW:]
    ratios = np.append(past.ratios, session.logs("candidate", "canary").mean())[-WINDOW:]
    levels = np.append(past.levels, session.latencies("canary").mean())[-WINDOW:]
    between, known = float(between_sessions(own)), max(len(own), ENOUGH) - 1
    series = ratios[None] if len(ratios) >= 2 * SHORTEST else None
    pairs = session.logs("candidate", "baseline")[None]
    seen = nights.suspect(pairs, series, between, known, case.thresholds.latency)
    device = [
        point.step for point in change_points(levels, SUSPECT_OVER_NIGHTS) if len(levels) - point.at <= RECENT
    ]
    return Look(seen, ratios, between, known, error_rates(own), device[-1] if device else None)


def alarms(
    looks: Mapping[int, Look], again: Mapping[int, Sequence[Session]], cases: Mapping[int, Case]
) -> tuple[set[int], set[int]]:
    """The numbers of the series that regressed in the night, and over the nights; `again` are the reruns' sessions."""
    numbers = list(looks)
    if not numbers:
        return set(), set()
    p_pairs, p_steps = (
        np.concatenate([getattr(looks[n].seen, p) for n in numbers]) for p in ("p_pairs", "p_steps")
    )
    confirmed = np.array([_confirmed(looks[n], again.get(n, ()), cases[n]) for n in numbers])
    found = nights.alarms(p_pairs, confirmed[:, 0], p_steps, confirmed[:, 1])
    in_the_night, over_nights = ({numbers[at] for at in np.flatnonzero(each)} for each in found)
    return in_the_night, over_nights


def _confirmed(seen: Look, again: Sequence[Session], case: Case) -> tuple[float, float]:
    """The p of the rerun, of pairs and of the step; 1 without one."""
    if not again:
        return 1.0, 1.0
    threshold = case.thresholds.latency
    pairs = np.concatenate([session.logs("candidate", "baseline") for session in again])[None]
    confirmed = float(nights.confirm_pairs(pairs, seen.between, seen.known, threshold)[0])
    steps = seen.seen.steps
    if steps is None:
        return confirmed, 1.0
    means = np.array([[session.logs("candidate", "canary").mean() for session in again]])
    beyond = nights.confirm_steps(seen.ratios[None], steps.at, steps.alike, means, threshold)
    return confirmed, float(beyond[0])

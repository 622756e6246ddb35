"""A model invoked at a fixed rate: the deadlines it missed, and how late it was."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from pipeline.measurement.measurement import Paced, Record


class Lateness(Record):
    """Milliseconds after the release."""

    p50: float
    p99: float
    greatest: float

    @property
    def sentence(self) -> str:
        """The three of them, in words."""
        return f"{self.p50:.4g} ms (p50), {self.p99:.4g} (p99), {self.greatest:.4g} at most"


class Deadlines(Record):
    """All releases of a measurement's processes. A miss is one that was dropped, as the work before it still went on,
    or that ended past its deadline; `jitter` is from release to start, `response` from release to end."""

    period_ms: float
    deadline_ms: float
    releases: int
    misses: int
    dropped: int
    longest_streak: int
    jitter: Lateness
    response: Lateness

    @property
    def miss_share(self) -> float:
        """Of the releases."""
        return self.misses / self.releases

    @property
    def sentence(self) -> str:
        """What came of it, in words."""
        streak = f", at most {self.longest_streak} in a row" if self.misses else ""
        return (
            f"{self.misses:,} of {self.releases:,} deadlines of {self.deadline_ms:g} ms missed{streak}; "
            f"started {self.jitter.sentence} after the release"
        )


def summarise(paced: Sequence[Paced]) -> Deadlines:
    """Of one process or more; the first release of each is never dropped."""
    missed = [
        [response is None or response > each.deadline_ns for response in each.response_ns] for each in paced
    ]
    return Deadlines(
        period_ms=paced[0].period_ns / 1e6,
        deadline_ms=paced[0].deadline_ns / 1e6,
        releases=sum(map(len, missed)),
        misses=sum(map(sum, missed)),
        dropped=sum(response is None for each in paced for response in each.response_ns),
        longest_streak=max(map(longest_streak, missed)),
        jitter=_lateness(late for each in paced for late in each.late_ns),
        response=_lateness(response for each in paced for response in each.response_ns),
    )


def longest_streak(missed: Iterable[bool]) -> int:
    """The most misses in a row."""
    longest = streak = 0
    for miss in missed:
        streak = streak + 1 if miss else 0
        longest = max(longest, streak)
    return longest


def _lateness(nanoseconds: Iterable[int | None]) -> Lateness:
    known = np.array([each for each in nanoseconds if each is not None]) / 1e6
    return Lateness(
        p50=float(np.percentile(known, 50)), p99=float(np.percentile(known, 99)), greatest=float(known.max())
    )

"""What speaks against the processes of one variant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.measurement.doubt import Doubt
from pipeline.measurement.measurement import MemoryReading, Repetition

# Between the medians of a variant's processes.
SPREAD = 0.25
# Of the time that sampling took: what a process that shares its core waits for.
WAITED = 0.02
# Between the first and the last quarter of a process's samples, where its warm-up did not come to rest.
MOVED = 0.10
# Of memory, between two counters of one thing.
COUNTERS, COUNTERS_BYTES = 0.01, 256 << 10
# Time synchronisation corrects the clock by up to 500 millionths; the readings are a moment apart.
CLOCKS, CLOCKS_NS = 1e-3, 200_000
# A mebibyte in pages of 4 KiB: what is swapped now and then on any machine that has swap.
SWAPPED_PAGES = 256


def find(repetitions: Sequence[Repetition]) -> Iterator[Doubt]:
    """The doubts, at most one of a kind."""
    yield from _swap(repetitions)
    if (found := spread(repetitions)) > SPREAD:
        yield Doubt(reason=f"the medians of its processes differ by {found:.0%} (over {SPREAD:.0%})")
    yield from _steadiness(repetitions)
    if (longest := max(map(waited, repetitions))) > WAITED:
        yield Doubt(
            reason="other programs took its core: "
            f"a process waited for {longest:.0%} of its time (over {WAITED:.0%})"
        )
    yield from _clocks(repetitions)
    for repetition in repetitions:
        if difference := _disagreement(repetition.memory.steady):
            yield Doubt(reason=f"two counters of its resident memory differ by {difference:,} bytes")
            break


def spread(repetitions: Sequence[Repetition]) -> float:
    """By what share the greatest median of a process exceeds the least."""
    medians = [float(np.median(repetition.samples_ns)) for repetition in repetitions]
    return max(medians) / min(medians) - 1


def waited(repetition: Repetition) -> float:
    """The share of its sampling that a process was ready to run and no core was free for it."""
    ready = repetition.waited_ns or 0
    return ready / (ready + sum(repetition.samples_ns))


def _swap(repetitions: Sequence[Repetition]) -> Iterator[Doubt]:
    """A process that lost memory while the device was swapping measures its disk."""
    lost = any(repetition.memory.steady.swap for repetition in repetitions)
    moved = [repetition.environment.get("swapped_pages") or {} for repetition in repetitions]
    pages = max((sum(each.values()) for each in moved), default=0)
    if lost:
        told = f", the device swapped {pages:,} pages meanwhile" if pages > SWAPPED_PAGES else ""
        yield Doubt(reason=f"a part of its memory was swapped out{told}", grave=pages > SWAPPED_PAGES)
    elif pages > SWAPPED_PAGES:
        yield Doubt(reason=f"the device swapped {pages:,} pages beside one of its processes")


def _steadiness(repetitions: Sequence[Repetition]) -> Iterator[Doubt]:
    """Processes that sampled before they came to rest; grave where half of them went on moving."""
    restless = [repetition for repetition in repetitions if repetition.steady is False]
    if not restless:
        return
    moving = sum(abs(_moved(repetition)) > MOVED for repetition in restless)
    reason = f"{len(restless)} of {len(repetitions)} processes were not steady when sampling began"
    if 2 * moving >= len(repetitions):
        yield Doubt(
            reason=f"{reason}, and the times of {moving} went on moving by over {MOVED:.0%}; "
            "raise measure.max_warmup_seconds",
            grave=True,
        )
    else:
        yield Doubt(reason=reason)


def _moved(repetition: Repetition) -> float:
    """The median of a process's last quarter of samples beside that of its first."""
    samples = repetition.samples_ns
    quarter = max(1, len(samples) // 4)
    return float(np.median(samples[-quarter:]) / np.median(samples[:quarter])) - 1


def _clocks(repetitions: Sequence[Repetition]) -> Iterator[Doubt]:
    """Clocks that went differently while a process was sampled: the ruler itself is wrong."""
    for repetition in repetitions:
        passed = repetition.environment.get("clocks_ns") or {}
        for name in passed:
            difference = passed[name] - passed.get("monotonic", passed[name])
            if abs(difference) > CLOCKS_NS + CLOCKS * passed["monotonic"]:
                yield Doubt(
                    reason=f"two clocks disagree: in {passed['monotonic'] / 1e6:,.1f} ms of sampling {name} "
                    f"went {difference / 1e6:+,.1f} ms further",
                    grave=True,
                )
                return


def _disagreement(reading: MemoryReading) -> int:
    """By how much the quick counter of what is resident and the one that counts pages differ, if by too much."""
    if reading.rss_by_page is None:
        return 0
    difference = abs(reading.rss - reading.rss_by_page)
    return difference if difference > max(COUNTERS_BYTES, COUNTERS * reading.rss_by_page) else 0

"""What the first start of a model costs, when its file is not in the page cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.measurement.measurement import ColdStart, Record


class Cold(Record):
    """Medians over the cold starts, in milliseconds; null, with the reason, where the device permits none."""

    starts: int
    load_ms: float | None
    first_ms: float | None
    reason: str | None

    def beside(self, load_ms: float, first_ms: float) -> str:
        """The figures in words, beside those with the file in the page cache."""
        if self.load_ms is None or self.first_ms is None:
            return f"cold start: not known, for {self.reason}"
        return (
            f"cold start: loading {self.load_ms:.3g} ms (warm {load_ms:.3g}), "
            f"first inference {self.first_ms:.3g} ms (warm {first_ms:.3g})"
        )


def summarise(starts: Sequence[ColdStart]) -> Cold:
    """Of at least one start; those that were not cold count for nothing."""
    load = [start.load_ns for start in starts if start.load_ns is not None]
    first = [start.first_ns for start in starts if start.first_ns is not None]
    return Cold(
        starts=len(first),
        load_ms=float(np.median(load)) / 1e6 if load else None,
        first_ms=float(np.median(first)) / 1e6 if first else None,
        reason=None if first else starts[0].reason,
    )

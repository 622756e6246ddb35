"""What speaks against a measurement."""

from __future__ import annotations

from pipeline.measurement.measurement import Record


class Doubt(Record):
    """A reason to believe a measurement with care or, where it is `grave`, not to compare it."""

    reason: str
    grave: bool = False

    def about(self, variant: str) -> Doubt:
        """The same, told of one variant."""
        return Doubt(reason=f"{variant}: {self.reason}", grave=self.grave)

"""How much patience a farm has with its devices and jobs."""

from __future__ import annotations

from pydantic import Field

from pipeline.plan_section import Section


class Policy(Section):
    """When a job is tried again, and when a device is put aside."""

    tries: int = Field(3, ge=1, description="of a job, on a device that fails it")
    retry_s: float = Field(5, ge=0, description="before a job's second try; twice as long each time")
    patience: int = Field(3, ge=1, description="failures of a device in a row before it is put aside")
    probation_s: float = Field(60, ge=0, description="until it is tried again; twice as long each time")
    longest_s: float = Field(1800, ge=0, description="what none of these waits exceeds")
    quarantines: int = Field(
        4, ge=0, description="in a row, after which its jobs are given up instead of waiting any more"
    )
    busy_s: float = Field(
        30, ge=0, description="before a device is asked again that somebody has from his desk"
    )
    losses: int = Field(
        30,
        ge=1,
        description="of a job, with the controller that ran it or to somebody at his desk, before it is given up",
    )

    def wait_s(self, first_s: float, count: int) -> float:
        """Seconds to wait for the `count`-th time."""
        return min(self.longest_s, first_s * 2.0 ** min(count - 1, 60))

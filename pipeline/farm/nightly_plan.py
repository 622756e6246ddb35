"""What nightly.yaml says, as frozen models; `nightly.yaml` itself comments every key."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from pipeline.farm.case import METRICS, Metric, Thresholds
from pipeline.farm.notify import Webhook
from pipeline.farm.policy import Policy
from pipeline.plan_section import Section

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
DIGEST = r"^[0-9a-f]{64}$"
SERIES = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}/[^/]+")


def _series(values: dict[str, Baseline]) -> dict[str, Baseline]:
    for name in values:
        if not SERIES.fullmatch(name):
            raise ValueError(f"expected PLAN/TARGET, for example digits/rpi4, received {name!r}")
    return values


class Baseline(Section):
    """A file that candidates are held against, and who stands for it."""

    digest: str = Field(pattern=DIGEST)
    owner: str = Field(min_length=1, max_length=128)


class PlanEntry(Section):
    """A plan, once or with each of several models; `candidate` is which of its files is judged."""

    plan: str = Field(min_length=1)
    candidate: Literal["sparse", "dense"] = "sparse"
    models: dict[Annotated[str, Field(pattern=NAME)], str] = {}
    set: tuple[str, ...] = ()
    thresholds: Thresholds | None = None


class NightlyPolicy(Policy):
    """A farm's, but that a night does not wait as long for a device that stays away."""

    quarantines: int = Field(2, ge=0)


class NightlyPlan(Section):
    """What is measured every night, where, and what of it is a regression."""

    name: str = Field("nightly", pattern=NAME)
    plans: tuple[PlanEntry, ...] = Field(min_length=1)
    targets: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()
    repetitions: int = Field(10, ge=2, le=1000)
    emulated: Literal["exact", "judge"] = "exact"
    engine: Literal["local", "ray"] = "local"
    thresholds: Thresholds = Thresholds()
    notify: tuple[Webhook, ...] = ()
    policy: NightlyPolicy = NightlyPolicy()
    baselines: Annotated[dict[str, Baseline], AfterValidator(_series)] = {}
    canaries: dict[str, Annotated[str, Field(pattern=DIGEST)]] = {}

    @model_validator(mode="after")
    def _has_targets(self) -> NightlyPlan:
        if not self.targets and not self.tags:
            raise ValueError("targets: missing; name one at least, or a tag: targets: [local]")
        return self

    def judged(self, emulated: bool) -> tuple[Metric, ...]:
        """What counts of a target: of an emulated one no times and no memory, unless this says so."""
        return METRICS if self.emulated == "judge" or not emulated else ("size", "metric")

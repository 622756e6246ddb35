"""The night's document: every job and every verdict. This file owns it; `docs/night.schema.json` is made from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline import atomic
from pipeline.errors import UserError
from pipeline.farm.case import Metric, Thresholds
from pipeline.farm.judge import NightVerdict
from pipeline.measurement.measurement import Record
from pipeline.measurement.statistics import Estimate
from pipeline.measurement.validity import Validity
from pipeline.models.metrics import Direction

SCHEMA_VERSION: Literal[1] = 1


class JobVariant(Record):
    """A file of a job, by digest and size; its figures where it was measured: `metric` on the device."""

    digest: str
    bytes: int
    p50_ms: Estimate | None = None
    p90_ms: Estimate | None = None
    peak_memory_bytes: int | None = None
    metric: float | None = None


class NightJob(Record):
    """A plan on a target: measured, or missing with the reason.

    `run` is its id in the history, `folder` where its result lies, relative to the night's; `reruns` are the folders of
    what was measured anew. `variants` are the candidate, the baseline, the baseline `again` and the canary.
    `baseline_owner` accepted the baseline; null where none was accepted yet, and the candidate stood in for it.
    `plan_file` is what the nightly file calls the plan, `tag` the one by which it found the target, if by any.
    `device` is what was found there, `environment` its state before the session. `judged` are the metrics that count.
    """

    plan: str
    target: str
    ended: Literal["done", "missing"]
    reason: str = ""
    plan_file: str = ""
    tag: str = ""
    run: str | None = None
    folder: str | None = None
    reruns: tuple[str, ...] = ()
    started: str | None = None
    seconds: dict[str, float] = {}
    emulated: bool = False
    description: str = ""
    runtime: str | None = None
    segment: str | None = None
    device: dict[str, Any] = {}
    environment: dict[str, Any] = {}
    metric: str | None = None
    direction: Direction | None = None
    variants: dict[str, JobVariant] = {}
    baseline_owner: str | None = None
    validity: Validity | None = None
    thresholds: Thresholds = Thresholds()
    judged: tuple[Metric, ...] = ()


class KnownJob(BaseModel):
    """What later nights have to know of a job, whichever version wrote it."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    plan: str
    target: str
    plan_file: str = ""
    tag: str = ""
    emulated: bool = False
    description: str = ""


class KnownNight(BaseModel):
    """What later nights have to know of one."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    id: str
    jobs: tuple[KnownJob, ...]


class Night(Record):
    """One night: `nightly` is the name in the nightly file, `file` its path as it was given. The error rates of each
    device are in its verdicts on latency."""

    schema_version: Literal[1] = SCHEMA_VERSION
    id: str
    created: str
    finished: str
    version: str
    nightly: str
    file: str
    jobs: tuple[NightJob, ...]
    verdicts: tuple[NightVerdict, ...]
    exit_code: int

    @property
    def alarms(self) -> tuple[NightVerdict, ...]:
        """What makes it red."""
        return tuple(verdict for verdict in self.verdicts if verdict.alarm)

    def job_of(self, verdict: NightVerdict) -> NightJob:
        """The job that a verdict is about."""
        return next(job for job in self.jobs if (job.plan, job.target) == (verdict.plan, verdict.target))


def save(night: Night, folder: Path) -> Path:
    """Write `night.json` into the night's folder."""
    path = folder / "night.json"
    atomic.write(path, night.model_dump_json(indent=1).encode())
    return path


def load(folder: Path) -> Night:
    """The night in a folder, or in the file itself. Raises `UserError` when it is none of ours."""
    path = folder / "night.json" if folder.is_dir() else folder
    try:
        return Night.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "(file)"
        raise UserError(
            f"{path}: not a night of schema version {SCHEMA_VERSION}: {where}: {first['msg']}"
        ) from None
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read: {error.strerror}; expected a night's folder, for example runs/latest-night"
        ) from None


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the document, of this version."""
    return Night.model_json_schema(mode="serialization")

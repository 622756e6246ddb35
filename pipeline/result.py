"""The result document: everything one run found out. This file owns it; `docs/result.schema.json` is made from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from pipeline import atomic
from pipeline.errors import UserError
from pipeline.measurement.agreement import Agreement
from pipeline.measurement.beside_host import BesideHost
from pipeline.measurement.gates import Gate
from pipeline.measurement.measurement import Measurement, Record
from pipeline.measurement.operators import Operators
from pipeline.measurement.statistics import Summary
from pipeline.measurement.validity import Validity
from pipeline.measurement.verdict import Verdict
from pipeline.measurement.winner import Winner
from pipeline.pruning.decision import LayerDecision
from pipeline.sparse_tflite.storing import EncodingDecision
from targets.cores import Core

SCHEMA_VERSION: Literal[2] = 2


class StageRecord(Record):
    """A stage of the run: its cache key, and whether its outputs were there already."""

    stage: str
    key: str
    cached: bool
    seconds: float


class VariantFile(Record):
    """A .tflite file of the run."""

    digest: str
    bytes: int


class ModelResult(Record):
    """The model on the host, before and after; what was done to each layer."""

    metric: str
    direction: Literal["higher", "lower"]
    metric_before: float
    metric_pruned: float
    metric_after: float
    parameters_before: int
    parameters_after: int
    layers: tuple[LayerDecision, ...]


class Encoded(Record):
    """The files as they suit a runtime and a kind of core (null: not known, so that they are as all runtimes read
    them); what was done to each operator.

    `rewrites` counts how often each exact rewrite of the graph was applied; `agreement` is that of sparse and dense on
    the host.
    """

    runtime: str | None = None
    core: Core | None = None
    rewrites: dict[str, int] = {}
    rewrites_reason: str = ""
    encodings: tuple[EncodingDecision, ...]
    agreement: Agreement
    variants: dict[str, VariantFile]

    @property
    def title(self) -> str:
        """For what the files are."""
        return f"{self.runtime} on {self.core}" if self.core else self.runtime or "all runtimes"


class Installed(Record):
    """What was switched in on the device; `health`: how many golden answers it gave again, and how far off at most;
    `after_install`: how the target's command ended, and what it said."""

    path: str
    digest: str
    previous: str | None
    health: dict[str, float] | None = None
    after_install: dict[str, Any] | None = None


class InvalidSession(Record):
    """A session that was taken again because it could not be believed; kept, and compared with nothing."""

    validity: Validity
    environment: dict[str, Any]
    measurements: dict[str, Measurement]


class TargetResult(Record):
    """All that one device said, and what follows from it.

    `settings` are the target's own (none of its transport's), `digests` those of the agent, the runtime's bundle and
    the evaluation inputs: with `device` and `environment` they say whether two results may be compared. `provision`
    is how the device got its runtime, and why so. `operators` is what ran of each variant, and by which kernels.
    `invalid_sessions` came before the one that `measurements` are of. `beside_host` is where each variant answers
    otherwise on the device than on the host.
    """

    emulated: bool
    transport: str
    started: str | None = None
    settings: dict[str, Any] = {}
    runtime: str | None = None
    encoded: Encoded | None = None
    provision: str | None = None
    digests: dict[str, str] = {}
    device: dict[str, Any] = {}
    environment: dict[str, Any] = {}
    measurements: dict[str, Measurement] = {}
    operators: dict[str, Operators] = {}
    summaries: dict[str, Summary] = {}
    validity: Validity | None = None
    invalid_sessions: tuple[InvalidSession, ...] = ()
    agreement: Agreement | None = None
    beside_host: dict[str, BesideHost] = {}
    gates: dict[str, tuple[Gate, ...]] = {}
    verdicts: tuple[Verdict, ...] = ()
    winner: Winner | None = None
    installed: Installed | None = None
    seconds: dict[str, float] = {}
    error: str | None = None
    exit_code: int
    headline: str


class Result(Record):
    """One run: the plan as it was, the stages, the model, and each target's result under its name.

    `error` is why no target was tried, in documents that were of version 1: today each target says so itself.
    """

    schema_version: Literal[2] = SCHEMA_VERSION
    id: str
    created: str
    version: str
    plan: dict[str, Any]
    host: dict[str, str]
    stages: tuple[StageRecord, ...]
    model: ModelResult | None
    targets: dict[str, TargetResult]
    exit_code: int
    error: str | None = None

    @property
    def name(self) -> str:
        """The plan's name."""
        return str(self.plan["name"])


def save(result: Result, folder: Path) -> Path:
    """Write `result.json` into the run's folder."""
    path = folder / "result.json"
    atomic.write(path, result.model_dump_json().encode())
    return path


def load(run: Path) -> Result:
    """The result in a run's folder, or in the file itself. Raises `UserError` when it is none of ours."""
    path = run / "result.json" if run.is_dir() else run
    try:
        return Result.model_validate(_migrated(json.loads(path.read_bytes())))
    except ValueError as error:
        if not isinstance(error, ValidationError):
            raise UserError(f"{path}: not a result: {error}") from None
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "(file)"
        raise UserError(
            f"{path}: not a result of schema version {SCHEMA_VERSION}: {where}: {first['msg']}"
        ) from None
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read: {error.strerror}; expected a run's folder, for example runs/latest"
        ) from None


def _migrated(document: Any) -> Any:
    """A document of an earlier version as one of this. Version 1 had one set of files for all targets."""
    if not isinstance(document, dict) or document.get("schema_version") != 1:
        return document
    model, targets = document.get("model"), document.get("targets")
    if isinstance(model, dict) and isinstance(targets, dict):
        encoded = {key: model.pop(key) for key in ("encodings", "agreement", "variants") if key in model}
        for target in targets.values():
            if isinstance(target, dict):
                target["encoded"] = encoded
    return {**document, "schema_version": SCHEMA_VERSION}


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the document, of this version."""
    return Result.model_json_schema(mode="serialization")

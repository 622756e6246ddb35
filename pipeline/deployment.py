"""One deploy: the host's stages, then each target from connection to verdict, into one result document."""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import engine
from pipeline.artifacts import Artifact, Store
from pipeline.engine import HostRun
from pipeline.errors import Disagreement, ExitCode, UserError
from pipeline.models.data import load_samples
from pipeline.models.samples import at_key
from pipeline.plan import PlanBase
from pipeline.progress import Progress
from pipeline.result import Encoded, InvalidSession, ModelResult, Result, TargetResult, VariantFile
from pipeline.sparse_tflite.suited import Suit
from pipeline.stages import attempts, deploy, install, judge, measure, report
from targets.device import Device, open_device
from targets.errors import TargetError
from targets.probe import Probe
from targets.provisioning import runtime_of
from targets.target import TargetBase

TOOLS = ("edgepipe", "tensorflow", "keras", "numpy")


def run(
    plan: PlanBase,
    folder: Path,
    targets: Mapping[str, TargetBase],
    store: Store,
    runs: Path,
    progress: Progress,
) -> Result:
    """Deploy to every target, with weights stored as they suit its runtime and core.
    The result is written after each target, so that none is lost to what comes after.

    A target that cannot be reached is known before any work begins; when none can, no work begins. Raises
    `UserError`; what a device does wrong is in the result.
    """
    # A folder that takes no result is better known now than after measuring.
    runs.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=runs).close()
    found = _new_result(plan)
    suits, failed = _check_reachable(targets, progress)
    found = found.model_copy(update={"targets": failed})
    if not suits:
        return _finish(found, runs)
    host = engine.run_host_stages(plan, folder, store, progress)
    found = found.model_copy(update={"stages": tuple(host.records), "model": _model_result(plan, host)})
    jobs = {name: _Job(plan, host, suit) for name, suit in suits.items()}
    # Before any device is sent anything: a refusal is better known now than after others were measured.
    refused = _encode(jobs, targets, store, progress)
    found = found.model_copy(
        update={"targets": {**failed, **refused}, "stages": tuple(host.records)},
    )
    if len(refused) == len(jobs):
        return _finish(found, runs)
    for name, job in jobs.items():
        if name not in refused:
            found = _add_target(found, name, targets[name], job, progress, runs)
    return found


@dataclass(frozen=True)
class _Job:
    """What is to be done on a target: the plan, what the host made of it, and what its files are to suit."""

    plan: PlanBase
    host: HostRun
    suit: Suit

    @property
    def encoded(self) -> dict[str, Artifact]:
        return self.host.encoded[self.suit]

    @property
    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = self.encoded["report"].read_json()
        return report

    @property
    def variants(self) -> dict[str, Artifact]:
        return self.host.variants(self.suit)


def _encode(
    jobs: Mapping[str, _Job], targets: Mapping[str, TargetBase], store: Store, progress: Progress
) -> dict[str, TargetResult]:
    """Make the files of every target; the failed results of those that cannot have any."""
    failed = {}
    for name, job in jobs.items():
        try:
            engine.encode(job.plan, job.host, store, progress, job.suit)
        except (Disagreement, UserError) as error:
            code = ExitCode.USER if isinstance(error, UserError) else ExitCode.GATE
            failed[name] = _failed(targets[name], str(error), code, {"settings": _settings(targets[name])})
    return failed


def _add_target(
    found: Result,
    name: str,
    target: TargetBase,
    job: _Job,
    progress: Progress,
    runs: Path,
) -> Result:
    """Run one target and write the run; what was measured is written whatever ends it."""
    known: dict[str, Any] = {"settings": _settings(target), "started": _now()}
    try:
        one = _run_target(name, target, job, found.id, progress, known)
    except BaseException as error:
        if known.get("measurements"):
            failed = _failed(target, f"the run was ended by {type(error).__name__}", ExitCode.BUG, known)
            _finish(found.model_copy(update={"targets": {**found.targets, name: failed}}), runs)
        raise
    return _finish(found.model_copy(update={"targets": {**found.targets, name: one}}), runs)


def _new_result(plan: PlanBase) -> Result:
    created = _now()
    return Result(
        id=f"{re.sub('[-:Z]', '', created).replace('T', '-')}-{plan.name}-{uuid.uuid4().hex[:6]}",
        created=created,
        version=engine.tool_versions(("edgepipe",))["edgepipe"],
        plan=plan.model_dump(mode="json"),
        host=engine.tool_versions(TOOLS),
        stages=(),
        model=None,
        targets={},
        exit_code=0,
    )


def _finish(found: Result, runs: Path) -> Result:
    """Settle the exit code and write the run: missing evidence weighs more than a failed gate."""
    codes = [each.exit_code for each in found.targets.values()]
    weights = (ExitCode.BUG, ExitCode.DEVICE, ExitCode.USER, ExitCode.GATE)
    code = next((each for each in weights if each in codes), ExitCode.PASS)
    found = found.model_copy(update={"exit_code": int(code)})
    report.run(found, runs)
    return found


def _check_reachable(
    targets: Mapping[str, TargetBase], progress: Progress
) -> tuple[dict[str, Suit], dict[str, TargetResult]]:
    """What the files of each target that answers are to suit, and the results of the others."""
    suits: dict[str, Suit] = {}
    failed: dict[str, TargetResult] = {}
    for name, target in targets.items():
        try:
            with progress.step(f"{name}: connect") as say, open_device(name, target) as device:
                suits[name] = suit_of(name, target, device.probe)
                say(device.probe.sentence)
        except (TargetError, UserError) as error:
            code = ExitCode.DEVICE if isinstance(error, TargetError) else ExitCode.USER
            failed[name] = _failed(target, str(error), code, {"settings": _settings(target)})
    return suits, failed


def suit_of(name: str, target: TargetBase, probe: Probe) -> Suit:
    """The runtime and the kind of cores of a device; None for these where neither it nor the target's file tells.

    Raises `UserError` where the target's file says otherwise than the device.
    """
    runtime, core = runtime_of(target, probe), target.core or probe.core
    if probe.core not in (core, None):
        raise UserError(
            f"{name}: core: the target's file says {core}, the device's processor is {probe.core}; "
            "weights would be stored for the wrong kernels; correct the file, or write core: null"
        )
    return runtime, core


def _failed(target: TargetBase, error: str, code: ExitCode, known: Mapping[str, Any]) -> TargetResult:
    """The result of a target that came to no good end, with all that is known of it."""
    first = error.splitlines()[0]
    if "winner" in known:
        headline = f"measured, but not installed, or not surely; edgepipe status tells: {first}"
    elif "measurements" in known:
        headline = f"measured, but not judged, nothing installed: {first}"
    else:
        headline = f"no evidence from the device, nothing installed: {first}"
    ended = {"error": error, "exit_code": int(code), "headline": headline}
    return TargetResult(emulated=target.emulated, transport=target.transport, **{**known, **ended})


def _settings(target: TargetBase) -> dict[str, Any]:
    return target.model_dump(mode="json", include=set(TargetBase.model_fields) - {"transport", "emulated"})


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _model_result(plan: PlanBase, host: HostRun) -> ModelResult:
    pruned = host.report("prune")
    return ModelResult(
        metric=plan.metric.title,
        direction=plan.metric.better,
        layers=tuple(pruned.pop("decisions")),
        **pruned,
    )


def _encoded_result(job: _Job) -> Encoded:
    report, (runtime, core) = job.report, job.suit
    return Encoded(
        runtime=runtime,
        core=core,
        rewrites=report["rewrites"],
        rewrites_reason=report["rewrites_reason"],
        encodings=tuple(report["encodings"]),
        agreement=report["agreement"],
        variants={
            name: VariantFile(digest=file.digest, bytes=file.path.stat().st_size)
            for name, file in job.variants.items()
        },
    )


def _run_target(
    name: str,
    target: TargetBase,
    job: _Job,
    run_id: str,
    progress: Progress,
    known: dict[str, Any],
) -> TargetResult:
    """One target from its files to its verdict; `known` holds at any moment what has been found out."""
    try:
        known["encoded"] = _encoded_result(job)
        with open_device(name, target) as device:
            known["device"] = device.probe.model_dump(mode="json", exclude={"agent", "free_kib", "features"})
            deployed, session = _measure_and_judge(name, device, job, progress, known)
            if known["exit_code"] == ExitCode.PASS:
                with _timed("install", known), progress.step(f"{name}: install"):
                    known["installed"] = _install(device, job, known, run_id, deployed, session)
    except (TargetError, UserError) as error:
        code = ExitCode.DEVICE if isinstance(error, TargetError) else ExitCode.USER
        return _failed(target, str(error), code, known)
    return TargetResult(emulated=target.emulated, transport=target.transport, **known)


def _measure_and_judge(
    name: str, device: Device, job: _Job, progress: Progress, known: dict[str, Any]
) -> tuple[deploy.Deployed, measure.Session]:
    """Fill `known` with what the device said and what follows from it, as far as it comes."""
    plan, host, variants = job.plan, job.host, job.variants
    with _timed("deploy", known), progress.step(f"{name}: deploy") as say:
        evaluation = at_key("inputs", host.outputs["convert"])
        assert evaluation is not None
        deployed = deploy.run(device, variants, evaluation, say)
    known.update(runtime=deployed.runtime, provision=deployed.provision)
    inputs = {
        name: artifact.digest
        for name, artifact in host.outputs["convert"].items()
        if name.startswith("inputs")
    }
    sent = {} if deployed.bundle_digest is None else {"bundle": deployed.bundle_digest}
    known["digests"] = {"agent": device.agent_digest, **sent, **inputs}
    emulated = device.target.emulated
    try:
        with _timed("measure", known), progress.step(f"{name}: measure") as say:
            for attempt in attempts.run(plan.measure, device, deployed, variants, say):
                session, measurements = attempt.session, attempt.measurements
                known.update(measurements=measurements, environment=session.environment)
                if attempt.repeated:
                    known["invalid_sessions"] = (*known.get("invalid_sessions", ()), _invalid(attempt))
    except measure.BrokenOff as error:
        measurements = judge.measurements_of(error.session, variants, emulated)
        known.update(measurements=measurements, environment=error.session.environment)
        raise
    truth = load_samples("targets", host.outputs["data"])
    measurements = judge.with_metric(
        measurements, session, plan.metric.source, host.files.metric, truth, plan.metric.output
    )
    sizes = {variant: artifact.path.stat().st_size for variant, artifact in variants.items()}
    quantum = job.report["quantum"]
    known.update(judge.run(plan, session, measurements, sizes, emulated, quantum))
    return deployed, session


def _invalid(attempt: attempts.Attempt) -> InvalidSession:
    return InvalidSession(
        validity=attempt.validity,
        environment=attempt.session.environment,
        measurements=attempt.measurements,
    )


@contextlib.contextmanager
def _timed(phase: str, known: dict[str, Any]) -> Iterator[None]:
    started = time.monotonic()
    try:
        yield
    finally:
        known.setdefault("seconds", {})[phase] = round(time.monotonic() - started, 3)


def _install(
    device: Device,
    job: _Job,
    known: Mapping[str, Any],
    run_id: str,
    deployed: deploy.Deployed,
    session: measure.Session,
) -> Any:
    variant = known["winner"].variant
    model = job.variants[variant]
    encodings = [each["encoding"] for each in job.report["encodings"]]
    labels = job.host.report("data")["labels"]
    manifest = install.manifest(model, variant, encodings, known["runtime"], labels, job.plan.name, run_id)
    return install.run(device, model, manifest, deployed, session.outputs[variant])

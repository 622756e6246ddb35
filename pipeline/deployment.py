"""One deploy: the host's stages, then each target from connection to verdict, into one result document."""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
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
from pipeline.result import ModelResult, Result, TargetResult, VariantFile
from pipeline.sparse_tflite.suited import Suit
from pipeline.stages import deploy, install, judge, measure, report
from pipeline.stages.convert import VARIANTS
from targets.device import Device, open_device
from targets.errors import TargetError
from targets.target import TargetBase

TOOLS = ("edgepipe", "tensorflow", "keras", "numpy")


def run(
    plan: PlanBase,
    folder: Path,
    targets: Mapping[str, TargetBase],
    store: Store,
    runs: Path,
    progress: Progress,
    suit: Suit | None = None,
) -> Result:
    """Deploy to every target, with weights stored as they suit a runtime and a core, or without `suit` all of them.
    The result is written after each target, so that none is lost to what comes after.

    A target that cannot be reached is known before any work begins; when none can, no work begins. Raises
    `UserError`; what a device does wrong is in the result.
    """
    # A folder that takes no result is better known now than after measuring.
    runs.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=runs).close()
    found = _new_result(plan)
    reached = _check_reachable(targets, progress)
    found = found.model_copy(
        update={"targets": {name: each for name, each in reached.items() if each is not None}}
    )
    if all(reached.values()):
        return _finish(found, runs)
    try:
        host = engine.run_host_stages(plan, folder, store, progress, suit=suit)
    except Disagreement as error:
        return _finish(found.model_copy(update={"error": str(error)}), runs)
    found = found.model_copy(update={"stages": tuple(host.records), "model": _model_result(plan, host)})
    for name, target in targets.items():
        if reached[name] is None:
            found = _add_target(found, name, target, plan, host, progress, runs)
    return found


def _add_target(
    found: Result,
    name: str,
    target: TargetBase,
    plan: PlanBase,
    host: HostRun,
    progress: Progress,
    runs: Path,
) -> Result:
    """Run one target and write the run; what was measured is written whatever ends it."""
    known: dict[str, Any] = {"settings": _settings(target), "started": _now()}
    try:
        one = _run_target(name, target, plan, host, found.id, progress, known)
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
    codes = [each.exit_code for each in found.targets.values()] + (
        [int(ExitCode.GATE)] if found.error else []
    )
    weights = (ExitCode.BUG, ExitCode.DEVICE, ExitCode.USER, ExitCode.GATE)
    code = next((each for each in weights if each in codes), ExitCode.PASS)
    found = found.model_copy(update={"exit_code": int(code)})
    report.run(found, runs)
    return found


def _check_reachable(targets: Mapping[str, TargetBase], progress: Progress) -> dict[str, TargetResult | None]:
    """None for each target that answers, else its failed result."""
    reached: dict[str, TargetResult | None] = {}
    for name, target in targets.items():
        try:
            with progress.step(f"{name}: connect") as say, open_device(name, target) as device:
                say(device.probe.sentence)
            reached[name] = None
        except TargetError as error:
            reached[name] = _failed(target, str(error), ExitCode.DEVICE, {"settings": _settings(target)})
    return reached


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
    pruned, converted = host.report("prune"), host.report("convert")
    files = {
        name: VariantFile(
            digest=host.outputs["convert"][name].digest,
            bytes=host.outputs["convert"][name].path.stat().st_size,
        )
        for name in VARIANTS
    }
    return ModelResult(
        metric=plan.metric.title,
        direction=plan.metric.better,
        layers=tuple(pruned.pop("decisions")),
        encodings=tuple(converted["encodings"]),
        agreement=converted["agreement"],
        variants=files,
        **pruned,
    )


def _run_target(
    name: str,
    target: TargetBase,
    plan: PlanBase,
    host: HostRun,
    run_id: str,
    progress: Progress,
    known: dict[str, Any],
) -> TargetResult:
    """One target from connection to verdict; `known` holds at any moment what has been found out."""
    try:
        with open_device(name, target) as device:
            known["device"] = device.probe.model_dump(mode="json", exclude={"agent", "free_kib", "features"})
            deployed, session = _measure_and_judge(name, device, plan, host, progress, known)
            if known["exit_code"] == ExitCode.PASS:
                with _timed("install", known), progress.step(f"{name}: install"):
                    known["installed"] = _install(device, plan, host, known, run_id, deployed, session)
    except (TargetError, UserError) as error:
        code = ExitCode.DEVICE if isinstance(error, TargetError) else ExitCode.USER
        return _failed(target, str(error), code, known)
    return TargetResult(emulated=target.emulated, transport=target.transport, **known)


def _measure_and_judge(
    name: str, device: Device, plan: PlanBase, host: HostRun, progress: Progress, known: dict[str, Any]
) -> tuple[deploy.Deployed, measure.Session]:
    """Fill `known` with what the device said and what follows from it, as far as it comes."""
    variants = {variant: host.outputs["convert"][variant] for variant in VARIANTS}
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
            session = measure.run(plan.measure, device, deployed, say)
    except measure.BrokenOff as error:
        measurements = judge.measurements_of(error.session, variants, emulated)
        known.update(measurements=measurements, environment=error.session.environment)
        raise
    measurements = judge.measurements_of(session, variants, emulated)
    known.update(measurements=measurements, environment=session.environment)
    truth = load_samples("targets", host.outputs["data"])
    measurements = judge.with_metric(
        measurements, session, plan.metric.source, host.files.metric, truth, plan.metric.output
    )
    sizes = {variant: artifact.path.stat().st_size for variant, artifact in variants.items()}
    quantum = host.report("convert")["quantum"]
    known.update(judge.run(plan, session, measurements, sizes, emulated, quantum))
    return deployed, session


@contextlib.contextmanager
def _timed(phase: str, known: dict[str, Any]) -> Iterator[None]:
    started = time.monotonic()
    try:
        yield
    finally:
        known.setdefault("seconds", {})[phase] = round(time.monotonic() - started, 3)


def _install(
    device: Device,
    plan: PlanBase,
    host: HostRun,
    known: Mapping[str, Any],
    run_id: str,
    deployed: deploy.Deployed,
    session: measure.Session,
) -> Any:
    variant = known["winner"].variant
    model: Artifact = host.outputs["convert"][variant]
    encodings = [each["encoding"] for each in host.report("convert")["encodings"]]
    labels = host.report("data")["labels"]
    manifest = install.manifest(model, variant, encodings, known["runtime"], labels, plan.name, run_id)
    return install.run(device, model, manifest, deployed, session.outputs[variant])

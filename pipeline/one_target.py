"""One target of a deploy, from its files to its verdict: sent, measured, judged, installed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.artifacts import Artifact
from pipeline.at_once import AtOnce
from pipeline.engine import HostRun
from pipeline.errors import ExitCode, UserError
from pipeline.measurement.measurement import Measurement
from pipeline.models.data import load_samples
from pipeline.models.samples import at_key
from pipeline.plan import MeasureSection, PlanBase
from pipeline.progress import Progress
from pipeline.result import Encoded, InvalidSession, TargetResult, VariantFile
from pipeline.sparse_tflite.suited import Suit
from pipeline.stages import attempts, deploy, install, judge, measure
from targets.device import Device
from targets.errors import TargetError
from targets.target import TargetBase


@dataclass(frozen=True)
class Turns:
    """All that a session on a device needs: the `variants` that take turns, on which `inputs` (of the stage convert:
    `inputs`, or `inputs/NAME`), by which protocol; `label` is what its progress is told under."""

    name: str
    label: str
    target: TargetBase
    measure: MeasureSection
    variants: Mapping[str, Artifact]
    inputs: Mapping[str, Artifact]


@dataclass(frozen=True)
class Job:
    """What is to be done on a target: the plan, what the host made of it, and what its files are to suit."""

    name: str
    target: TargetBase
    plan: PlanBase
    host: HostRun
    suit: Suit | None

    @property
    def label(self) -> str:
        """What its progress is told under."""
        return self.name

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

    @property
    def turns(self) -> Turns:
        """What is done with it on the device, up to what the device says."""
        converted = self.host.outputs["convert"]
        inputs = {key: artifact for key, artifact in converted.items() if key.startswith("inputs")}
        return Turns(self.name, self.label, self.target, self.plan.measure, self.variants, inputs)


def run_target(
    job: Job, run_id: str, at_once: AtOnce, progress: Progress, known: dict[str, Any]
) -> TargetResult:
    """One target; `known` holds at any moment what has been found out. What the device or the user does wrong is in
    the result.
    """
    target = job.target
    known.update(settings=settings(target), started=now())
    try:
        known["encoded"] = encoded_result(job)
        with at_once.device(job.name, target) as device:
            deployed, session = take_turns(device, job.turns, at_once, progress, known)
            with at_once.this_machine:
                _judge(device, session, job, known)
            if known["exit_code"] == ExitCode.PASS:
                with _timed("install", known), progress.step(f"{job.label}: install"):
                    known["installed"] = _install(device, job, known, run_id, deployed, session)
    except (TargetError, UserError) as error:
        code = ExitCode.DEVICE if isinstance(error, TargetError) else ExitCode.USER
        return failed(target, str(error), code, known)
    return TargetResult(emulated=target.emulated, transport=target.transport, **known)


def take_turns(
    device: Device, turns: Turns, at_once: AtOnce, progress: Progress, known: dict[str, Any]
) -> tuple[deploy.Deployed, measure.Session]:
    """The variants measured in one session, which `known` holds then, as far as it came. Raises `TargetError`."""
    known["device"] = device.probe.model_dump(mode="json", exclude={"agent", "free_kib", "features"})
    # Two that work on this machine at once would measure each other.
    here = turns.target.emulated or turns.target.transport == "local"
    with at_once.this_machine if here else contextlib.nullcontext():
        deployed = _deploy(device, turns, progress, known)
        return deployed, _measure(device, deployed, turns, progress, known)


def failed(target: TargetBase, error: str, code: ExitCode, known: Mapping[str, Any]) -> TargetResult:
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


def settings(target: TargetBase) -> dict[str, Any]:
    """What the result tells of a target's file: all but how it is reached and switched."""
    return target.model_dump(
        mode="json", include=set(TargetBase.model_fields) - {"transport", "emulated", "power", "labgrid"}
    )


def now() -> str:
    """This moment, as the result tells it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def encoded_result(job: Job) -> Encoded:
    """What the result tells of a job's files."""
    report, (runtime, core) = job.report, job.suit or (None, None)
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


def _deploy(device: Device, turns: Turns, progress: Progress, known: dict[str, Any]) -> deploy.Deployed:
    """Runtime, models and inputs are on the device."""
    with _timed("deploy", known), progress.step(f"{turns.label}: deploy") as say:
        evaluation = at_key("inputs", turns.inputs)
        assert evaluation is not None
        deployed = deploy.run(device, turns.variants, evaluation, say)
    inputs = {key: artifact.digest for key, artifact in turns.inputs.items()}
    sent = {} if deployed.bundle_digest is None else {"bundle": deployed.bundle_digest}
    known.update(
        runtime=deployed.runtime,
        provision=deployed.provision,
        digests={"agent": device.agent_digest, **sent, **inputs},
    )
    return deployed


def _measure(
    device: Device,
    deployed: deploy.Deployed,
    turns: Turns,
    progress: Progress,
    known: dict[str, Any],
) -> measure.Session:
    """What the device said; `known` holds it also where it broke off."""
    try:
        with _timed("measure", known), progress.step(f"{turns.label}: measure") as say:
            for attempt in attempts.run(turns.measure, device, deployed, turns.variants, say):
                _put_aside(known)
                session = attempt.session
                known.update(
                    measurements=attempt.measurements,
                    environment=session.environment,
                    validity=attempt.validity,
                )
    except measure.BrokenOff as error:
        _put_aside(known)
        measurements = judge.measurements_of(error.session, turns.variants, device.target.emulated)
        known.update(measurements=measurements, environment=error.session.environment)
        raise
    return session


def _put_aside(known: dict[str, Any]) -> None:
    """An invalid session that another follows is kept beside that one."""
    if "measurements" in known:
        fields = {key: known.pop(key) for key in ("validity", "environment", "measurements")}
        known["invalid_sessions"] = (*known.get("invalid_sessions", ()), InvalidSession(**fields))


def _judge(device: Device, session: measure.Session, job: Job, known: dict[str, Any]) -> None:
    """What follows from what the device said."""
    plan, measurements = job.plan, with_metric(session, job, known)
    sizes = {variant: artifact.path.stat().st_size for variant, artifact in job.variants.items()}
    quantum = job.report["quantum"]
    host = {name: load_samples(f"answers-{name}", job.encoded) for name in job.variants}
    emulated = device.target.emulated
    known.update(judge.run(plan, session, measurements, sizes, emulated, quantum, host))


def with_metric(session: measure.Session, job: Job, known: Mapping[str, Any]) -> dict[str, Measurement]:
    """The session's measurements with the metric of what the device answered."""
    metric, truth = job.plan.metric, load_samples("targets", job.host.outputs["data"])
    return judge.with_metric(
        known["measurements"], session, metric.source, job.host.files.metric, truth, metric.output
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
    job: Job,
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

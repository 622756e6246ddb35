"""One job of a night: candidate, baseline, baseline again and canary take turns on a device, into a result."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from pipeline.artifacts import Artifact
from pipeline.at_once import AtOnce
from pipeline.errors import ExitCode, UserError
from pipeline.farm.case import VARIANTS, Session
from pipeline.farm.errand import Errand
from pipeline.farm.heart import Hold
from pipeline.measurement import validity
from pipeline.measurement.statistics import summarise
from pipeline.one_target import Job, encoded_result, failed, now, settings, with_metric
from pipeline.progress import Progress
from pipeline.result import TargetResult
from pipeline.sparse_tflite.signature import Signature, read_signature
from pipeline.stages import measure
from targets.device import DeviceBusy
from targets.errors import TargetError

# Of what is measured anew: another series in the history, for it is no night of its own.
ANEW = "rerun-"


@dataclass(frozen=True)
class NightlyJob(Job):
    """A plan on a target, beside its baseline and canary. None: the candidate stands in for a baseline, the unpruned
    model for a canary. `candidate` is the file of the plan's that is judged; `anew` is a rerun's number.
    """

    candidate: str = "sparse"
    baseline: Artifact | None = None
    canary: Artifact | None = None
    anew: int | None = None

    @property
    def label(self) -> str:
        again = "" if self.anew is None else f", measured anew, {self.anew}"
        return f"{self.plan.name} on {self.name}{again}"

    @property
    def variants(self) -> dict[str, Artifact]:
        ours = self.host.variants(self.suit)
        candidate = ours[self.candidate]
        baseline = self.baseline or candidate
        files = (candidate, baseline, baseline, self.canary or ours["baseline"])
        prefix = "" if self.anew is None else ANEW
        return {f"{prefix}{name}": file for name, file in zip(VARIANTS, files, strict=True)}


def measure_job(
    job: NightlyJob, hold: Hold, at_once: AtOnce, progress: Progress, known: dict[str, Any]
) -> TargetResult:
    """Measure a job; `known` holds at any moment what is known of it. What the device does wrong is in the result."""
    known.update(settings=settings(job.target), started=now())
    try:
        known["encoded"] = encoded_result(job)
        _check_ports(job)
        session = _turns_taken(job, hold, at_once, progress, known)
        with at_once.this_machine:
            measurements = with_metric(session, job, known)
    except DeviceBusy:
        # Nothing was measured, and nothing is wrong: the farm asks again later.
        raise
    except (TargetError, UserError) as error:
        code = ExitCode.DEVICE if isinstance(error, TargetError) else ExitCode.USER
        return failed(job.target, str(error), code, known)
    valid = validity.check(measurements, session.environment, job.plan.measure.repetitions)
    known.update(measurements=measurements, operators=session.operators, validity=valid)
    ended, headline = ExitCode.PASS, "measured; the night judges it"
    if valid.state == "invalid":
        ended, headline = ExitCode.DEVICE, f"invalid measurement, not judged: {valid.reasons[0]}"
    else:
        known["summaries"] = {name: summarise(each) for name, each in measurements.items()}
    return TargetResult(
        emulated=job.target.emulated,
        transport=job.target.transport,
        exit_code=int(ended),
        headline=headline,
        **known,
    )


def _turns_taken(
    job: NightlyJob, hold: Hold, at_once: AtOnce, progress: Progress, known: dict[str, Any]
) -> measure.Session:
    """The session, by whichever machine attends to the device."""
    elsewhere = hold.elsewhere is not None
    with progress.step(f"{job.label}: measured elsewhere") if elsewhere else contextlib.nullcontext():
        taken = hold.run(Errand(job.turns, at_once, progress, known))
    known.update(taken.known)
    if isinstance(taken.said, Exception):
        raise taken.said
    return taken.said


def session_of(found: TargetResult) -> Session | None:
    """What of a job's result is judged; None where it was not measured to the end."""
    if found.validity is None or found.error is not None or found.encoded is None:
        return None
    return Session(
        {name.removeprefix(ANEW): each for name, each in found.measurements.items()},
        found.validity,
        {name.removeprefix(ANEW): each.bytes for name, each in found.encoded.variants.items()},
    )


def _check_ports(job: NightlyJob) -> None:
    """All take the same inputs and give the same outputs, or there is nothing to compare."""
    found = {name: read_signature(file.path.read_bytes(), name) for name, file in job.variants.items()}
    candidate, *others = (_ports(each) for each in found.values())
    for name, ports in zip(list(found)[1:], others, strict=True):
        if ports != candidate:
            raise UserError(
                f"{job.label}: candidate and {name} have not the same inputs and outputs: {candidate} and {ports}; "
                "accept another baseline: edgepipe baseline accept"
            )


def _ports(signature: Signature) -> str:
    """`1x28x28x1 -> 1x10`."""
    sides = ([each.shape for each in side] for side in (signature.inputs, signature.outputs))
    return " -> ".join(" and ".join("x".join(map(str, shape)) for shape in side) for side in sides)

"""Attempts: a session, and another one after a cool-down while they cannot be believed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.artifacts import Artifact
from pipeline.measurement import validity
from pipeline.measurement.measurement import Measurement
from pipeline.measurement.validity import Validity
from pipeline.plan import MeasureSection
from pipeline.progress import Say
from pipeline.stages import judge, measure
from pipeline.stages.deploy import Deployed
from pipeline.stages.measure import GRACE_S, Session
from targets.device import Device


@dataclass(frozen=True)
class Attempt:
    """One session and what may be believed of it; one that is `repeated` is followed by another."""

    session: Session
    measurements: dict[str, Measurement]
    validity: Validity
    repeated: bool


def run(
    options: MeasureSection, device: Device, deployed: Deployed, variants: Mapping[str, Artifact], say: Say
) -> Iterator[Attempt]:
    """Each session as it ends, up to one that is not invalid, or to `retries` more than one; the last is the one to
    judge. Raises as `measure.run` does.
    """
    emulated = device.target.emulated
    first: Mapping[str, Any] = {}
    for left in range(options.retries, -1, -1):
        session = measure.run(options, device, deployed, say)
        first = first or session.environment.get("before", {})
        measurements = judge.measurements_of(session, variants, emulated)
        found = validity.check(measurements, session.environment, options.repetitions)
        again = found.state == "invalid" and left > 0
        yield Attempt(session, measurements, found, again)
        if not again:
            return
        say(f"invalid: {found.reasons[0]}; once more after a cool-down")
        _cool_down(options, device, first, say)


def _cool_down(options: MeasureSection, device: Device, first: Mapping[str, Any], say: Say) -> None:
    """Wait until the device is as cool as it was before the first session, at most `cool_down_seconds`."""
    ended = device.ask(
        "cool_down",
        deadline_s=options.cool_down_seconds + GRACE_S,
        lock=device.lock,
        seconds=options.cool_down_seconds,
        temperatures_c=first.get("temperatures_c") or {},
    )[-1]
    say(f"cooled down for {ended['seconds']:.0f} s: {ended['reason']}")

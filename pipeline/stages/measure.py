"""Measure: every variant on the device, in turn, in fresh processes; its answers come back with its times."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import ValidationError

from pipeline.artifacts import file_digest
from pipeline.measurement.measurement import ColdStart, Repetition, Spent, Sustained
from pipeline.measurement.operators import Operators
from pipeline.models.samples import Samples, of_names
from pipeline.plan import MeasureSection
from pipeline.progress import Say
from pipeline.stages.deploy import Deployed
from targets.device import Device, DeviceBusy, Event
from targets.errors import TargetError

Reported = TypeVar("Reported", Repetition, ColdStart, Sustained, Spent)

GRACE_S = 60.0
# How long operators are timed, and as long the whole model beside them.
PROFILE_S = 2.0
# How long meters are read while the device rests.
IDLE_S = 5.0
AGENT_KEYS = (
    "warmup_runs",
    "warmup_seconds",
    "max_warmup_seconds",
    "min_samples",
    "min_seconds",
    "max_samples",
    "max_seconds",
    "interval",
)


@dataclass(frozen=True)
class Session:
    """What one session on one device yielded: `outputs` (samples, ...) of each variant on the evaluation set, by name
    where there are several."""

    repetitions: dict[str, tuple[Repetition, ...]]
    outputs: dict[str, Samples]
    environment: dict[str, Any]
    sustained: dict[str, Sustained]
    operators: dict[str, Operators] = field(default_factory=dict)
    spent: dict[str, Spent] = field(default_factory=dict)
    cold: dict[str, tuple[ColdStart, ...]] = field(default_factory=dict)


class BrokenOff(TargetError):
    """The session ended early; `session` holds the processes that had finished until then, and no outputs."""

    def __init__(self, cause: TargetError, session: Session) -> None:
        super().__init__(cause.message, cause.remedy)
        self.session = session


def run(options: MeasureSection, device: Device, deployed: Deployed, say: Say) -> Session:
    """Run the session. Raises `BrokenOff`, with what was measured, when the device or the way to it fails."""
    names = list(deployed.variants)
    session = uuid.uuid4().hex
    files = {name: f"{device.target.workdir}/outputs/{session}-{name}" for name in names}
    places: dict[str, str | dict[str, str]] = {
        # Numbers, for an output may be called what no file can be.
        name: {output: f"{path}-{at}.npy" for at, output in enumerate(deployed.outputs)} or f"{path}.npy"
        for name, path in files.items()
    }
    steps: list[dict[str, Any]] = [
        {"kind": "evaluate", "variant": name, "outputs": places[name]} for name in names
    ]
    steps += [{"kind": "time", "variant": name} for name in turns(names, options.repetitions)]
    # After all that is timed warm, for they empty a part of the page cache.
    steps += [{"kind": "cold", "variant": name} for name in turns(names, options.cold_starts)]
    if options.operators:
        steps += [{"kind": "profile", "variant": name, "seconds": PROFILE_S} for name in names]
    for name in names if options.sustained_seconds else ():
        rest = {"seconds": options.sustained_seconds, "cool_down_seconds": options.cool_down_seconds}
        steps.append({"kind": "sustain", "variant": name, **rest})
    for name in names if options.energy_seconds else ():
        spans = {"seconds": options.energy_seconds, "idle_seconds": IDLE_S}
        rest = {"cool_down_seconds": options.cool_down_seconds}
        steps.append({"kind": "spend", "variant": name, **spans, **rest})

    events: list[Event] = []

    def tell(event: Event) -> None:
        events.append(event)
        if "step" in event:
            say(f"{event['step'] + 1} of {len(steps)}: {event['variant']} {event['event']}")

    try:
        device.ask(
            "measure",
            tell,
            deadline_s=options.step_deadline_s * len(steps) + _longer(options, len(names)) + GRACE_S,
            lock=device.lock,
            bundle=deployed.bundle,
            runtime=deployed.runtime,
            **device.target.setting,
            variants=deployed.variants,
            inputs=deployed.inputs,
            steps=steps,
            protocol={**options.model_dump(include=set(AGENT_KEYS)), "deadline": _deadline(options)},
            controls=options.controls.model_dump(mode="json"),
            step_deadline_s=options.step_deadline_s,
        )
        outputs = _fetch(device, events)
    except DeviceBusy:
        raise
    except TargetError as error:
        known = _session(device, names, events, {})
        raise BrokenOff(error, known) from error
    finally:
        _tidy(device, [path for each in places.values() for path in named_places(each).values()])
    return _session(device, names, events, outputs)


def _deadline(options: MeasureSection) -> dict[str, float] | None:
    """As the agent takes it, the deadline in milliseconds."""
    wanted = options.deadline
    if wanted is None:
        return None
    return {**wanted.model_dump(), "deadline_ms": wanted.deadline_ms or wanted.period_ms}


def _longer(options: MeasureSection, variants: int) -> float:
    """Seconds that the session takes by order, beside what its steps may take at most."""
    paced = options.deadline.seconds * options.repetitions if options.deadline else 0.0
    endurance = options.sustained_seconds + options.cool_down_seconds if options.sustained_seconds else 0.0
    energy = IDLE_S + options.energy_seconds + options.cool_down_seconds if options.energy_seconds else 0.0
    return variants * (paced + endurance + energy)


def _session(
    device: Device, names: Sequence[str], events: Sequence[Event], outputs: dict[str, Samples]
) -> Session:
    return Session(
        _in_turns(device, Repetition, "repetition", names, events),
        outputs,
        _environment(events),
        _once(device, Sustained, "sustained", events),
        _operators(device, events),
        _once(device, Spent, "spent", events),
        _in_turns(device, ColdStart, "cold", names, events),
    )


def _once(device: Device, kind: type[Reported], name: str, events: Sequence[Event]) -> dict[str, Reported]:
    """The events of this name, of which a variant has at most one."""
    found = [event for event in events if event.get("event") == name]
    return {str(event["variant"]): _read(device, kind, event) for event in found}


def named_places(places: str | dict[str, str]) -> dict[str, str]:
    """Paths by the names of outputs; a single path is that of the only one, which goes by the empty text."""
    return places if isinstance(places, dict) else {"": places}


def turns(variants: Sequence[str], repetitions: int) -> list[str]:
    """A B C C B A, then B C A A C B, ...: each variant `repetitions` times.

    There and back again, so that a steady drift weighs on all alike; each time another one begins, so that all
    have the same neighbours.
    """
    order: list[str] = []
    for repetition in range(repetitions):
        start = repetition // 2 % len(variants)
        turn = [*variants[start:], *variants[:start]]
        order += turn if repetition % 2 == 0 else turn[::-1]
    return order


def _in_turns(
    device: Device, kind: type[Reported], name: str, names: Sequence[str], events: Sequence[Event]
) -> dict[str, tuple[Reported, ...]]:
    """The events of this name, of which each of the variants `names` has any number."""
    found: dict[str, tuple[Reported, ...]] = {variant: () for variant in names}
    for event in events:
        if event.get("event") == name:
            one = _read(device, kind, event)
            if event.get("variant") not in found:
                raise TargetError(
                    f"{device.name}: the agent measured what it was not asked to: {event!r:.200}"
                )
            found[event["variant"]] += (one,)
    return found


def _read(device: Device, kind: type[Reported], event: Event) -> Reported:
    """What an event of the agent's holds, beside its name and its variant's."""
    fields = {key: value for key, value in event.items() if key not in ("event", "variant")}
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        what = f"a {kind.__name__.lower()} event"
        raise TargetError(f"{device.name}: the agent sent {what} that is none: {error}") from None


def _environment(events: Sequence[Event]) -> dict[str, Any]:
    return {
        str(event["when"]): {key: value for key, value in event.items() if key not in ("event", "when")}
        for event in events
        if event.get("event") == "environment"
    }


def _operators(device: Device, events: Sequence[Event]) -> dict[str, Operators]:
    """What ran of each variant, with times where it was profiled."""
    found: dict[str, Operators] = {}
    for event in events:
        if event.get("operators") and event.get("event") in ("evaluated", "profiled"):
            name = str(event["variant"])
            try:
                told = Operators.model_validate(event["operators"])
            except ValidationError as error:
                raise TargetError(f"{device.name}: the agent sent operators that are none: {error}") from None
            if not told.reason:
                found[name] = told
            else:
                found.setdefault(name, told)
    return found


def _fetch(device: Device, events: Sequence[Event]) -> dict[str, Samples]:
    found: dict[str, Samples] = {}
    for event in events:
        if event.get("event") == "evaluated":
            places, digests = named_places(event["outputs"]), named_places(event["sha256"])
            arrays = {name: _array(device, event, path, digests[name]) for name, path in places.items()}
            found[event["variant"]] = of_names(list(arrays.values()), list(arrays))
    return found


def _array(device: Device, event: Event, source: str, digest: str) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "outputs.npy")
        device.fetch(source, path)
        if file_digest(path) != digest:
            raise TargetError(
                f"{device.name}: the outputs of {event['variant']} arrived damaged", "run again"
            )
        # Mapped and not read: there may be more of it than memory. The mapping outlives the file's name.
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        return array


def _tidy(device: Device, paths: list[str]) -> None:
    try:
        device.ask("remove", paths=paths)
    except TargetError:
        # The device is gone; what brought us here says so already.
        return

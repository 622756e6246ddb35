"""A device as the farm sees it: whether it is fit, how its power is switched off and on, how long it rests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from pipeline.farm.heart import Hold
from pipeline.farm.labgrid import Place
from targets.checkup import check_up
from targets.errors import TargetError
from targets.target import TargetBase, device_of

SAID = 500


@dataclass(frozen=True)
class Station:
    """`check` raises `TargetError` where the device is unfit; `power_cycle`, where there is one, if that fails.

    `reserved` has the device of a lab that others use, too, for as long as its block runs: it raises `TargetError`
    while it cannot be had, and `UserError` where it never can. One that is `here` is attended to by the controller's
    own machine, whatever the engine.
    """

    device: str
    check: Callable[[], None]
    power_cycle: Callable[[Hold], None] | None = None
    rest_s: float = 0.0
    reserved: Callable[[Hold], AbstractContextManager[None]] | None = None
    here: bool = False


def station_of(name: str, target: TargetBase) -> Station:
    """A target's device. Two targets that name one device share it. Raises `TargetError` where it cannot be told."""
    place = Place(target.labgrid.place, target.labgrid.coordinator) if target.labgrid else None

    def check() -> None:
        for finding in check_up(target):
            if not finding.ok:
                raise TargetError(f"{name}: {finding.what}: {finding.answer}", finding.remedy)

    def power_cycle(hold: Hold) -> None:
        environment = place.environment(hold.lease) if place else {}
        switch(name, target.power, target.power_deadline_s, environment)

    return Station(
        device_of(target),
        check,
        power_cycle if target.power else None,
        target.rest_s,
        place.held if place else None,
        # Emulated devices stand on this machine, where they take turns; phones hang at its USB ports.
        here=target.emulated or target.transport != "ssh",
    )


def switch(name: str, argv: tuple[str, ...], deadline_s: float, environment: Mapping[str, str]) -> None:
    """Run the command that switches a device off and on, here and without a shell. Raises `TargetError`."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=deadline_s,
            env={**os.environ, **environment},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TargetError(
            f"{name}: power: {argv[0]} did not end within {deadline_s:g} s and was killed",
            "raise power_deadline_s in the target's file",
        ) from None
    except OSError as error:
        raise TargetError(
            f"{name}: power: {argv[0]}: {error.strerror}", "correct power in the target's file"
        ) from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-SAID:]
        raise TargetError(f"{name}: power: {argv[0]} ended with code {done.returncode}: {said}")

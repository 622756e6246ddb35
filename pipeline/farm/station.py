"""A device as the farm sees it: whether it is fit, how its power is switched off and on, how long it rests."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from targets.checkup import check_up
from targets.errors import TargetError
from targets.target import TargetBase, device_of

SAID = 500


@dataclass(frozen=True)
class Station:
    """`check` raises `TargetError` where the device is unfit; `power_cycle`, where there is one, if that fails."""

    device: str
    check: Callable[[], None]
    power_cycle: Callable[[], None] | None = None
    rest_s: float = 0.0


def station_of(name: str, target: TargetBase) -> Station:
    """A target's device. Two targets that name one device share it. Raises `TargetError` where it cannot be told."""

    def check() -> None:
        for finding in check_up(target):
            if not finding.ok:
                raise TargetError(f"{name}: {finding.what}: {finding.answer}", finding.remedy)

    def power_cycle() -> None:
        switch(name, target.power, target.power_deadline_s)

    return Station(device_of(target), check, power_cycle if target.power else None, target.rest_s)


def switch(name: str, argv: tuple[str, ...], deadline_s: float) -> None:
    """Run the command that switches a device off and on, here and without a shell. Raises `TargetError`."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=deadline_s,
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

"""How a device gets a TFLite runtime, and where it has none, a Python: one file a way, chosen by `provision:`.

Each file has `misfit(target, probe)`, why it does not fit the device (empty when it does), `runtime(target, probe)`,
the name of the runtime that the device gets, and `provide(ground, say)`, which sees that all is there and verified.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from targets.errors import TargetError
from targets.probe import Probe
from targets.target import TargetBase

# In the order in which `auto` prefers them: what is known by its version comes first, what the device has last.
WAYS = ("bundle", "portable", "system")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Provisioned:
    """The runtime on a device.

    `folder` is what the interpreter's process imports from, None where it is the device's own; `digest` that of what
    was sent. `python` starts the agent: a command that its file's path is added to.
    """

    runtime: str
    folder: str | None
    digest: str | None
    python: tuple[str, ...]
    way: str = ""
    reason: str = ""


class Ground(Protocol):
    """What providing takes of a device; files and commands are as a transport has them."""

    target: TargetBase
    probe: Probe

    def bring(self, archive: Path, place: str) -> None:
        """See that an archive is at `place` on the device, and room to unpack it."""

    def run(self, argv: list[str], deadline_s: float) -> tuple[int, str]:
        """The exit code, and the end of what it wrote to standard error."""

    def ask_with(
        self, python: tuple[str, ...], do: str, deadline_s: float, **job: Any
    ) -> list[dict[str, Any]]:
        """One job of the agent's, under this Python."""


def choose(target: TargetBase, probe: Probe) -> tuple[str, str]:
    """The way for this device and why, for people; raises `TargetError` when none fits."""
    if target.provision != "auto":
        misfit = _misfit(target.provision, target, probe)
        if misfit:
            raise TargetError(
                f"provision: {target.provision} does not fit the device: {misfit}",
                "provision: auto looks further",
            )
        return target.provision, "the target says so"
    reasons: list[str] = []
    for way in WAYS:
        misfit = _misfit(way, target, probe)
        if not misfit:
            return way, "; ".join(reasons) or _fits(target, probe)
        reasons.append(f"no {way}: {misfit}")
    raise TargetError("no TFLite runtime fits the device: " + "; ".join(reasons))


def runtime_of(target: TargetBase, probe: Probe) -> str:
    """The name of the runtime that models are run by on this device. Raises `TargetError` when none fits."""
    way, _ = choose(target, probe)
    name: str = _module(way).runtime(target, probe)
    return name


def provide(ground: Ground, say: Say) -> Provisioned:
    """Bring what the device lacks. Raises `TargetError`."""
    way, reason = choose(ground.target, ground.probe)
    say(f"provision: {way} ({reason})")
    found: Provisioned = _module(way).provide(ground, say)
    return Provisioned(found.runtime, found.folder, found.digest, found.python, way, reason)


def _fits(target: TargetBase, probe: Probe) -> str:
    """Why the first way is taken, and which runtime was passed over for the one that it brings."""
    from targets.provisioning.runtimes import passed_over

    others = passed_over(target.runtime, probe)
    return "it fits the device's Python and C library" + (f"; {others}" if others else "")


def _misfit(way: str, target: TargetBase, probe: Probe) -> str:
    said: str = _module(way).misfit(target, probe)
    return said


def _module(way: str) -> Any:
    return importlib.import_module(f"targets.provisioning.{way}")

"""A runtime tried on the device before anything depends on it, as a measurement would use it."""

from __future__ import annotations

from targets.errors import TargetError
from targets.provisioning import Ground

# What a shell says of a command that a system call's filter ended: 128 and SIGSYS, which is 31 on Arm and x86.
_FORBIDDEN = 128 + 31
_LONG_S = 300.0
_SHORT_S = 60.0
_REMEDY = (
    "of an app's sandbox, Termux's, stay outside: reach the phone by adb (transport: adb) or by a rooted phone's SSH "
    "server, or use a runtime of Termux's own Python (provision: system); see docs/android.md"
)


def try_out(ground: Ground, python: tuple[str, ...], runtime: str, folder: str | None) -> None:
    """Have the agent import the runtime from `folder` (None: where this Python finds it). Raises `TargetError`."""
    try:
        ground.ask_with(
            python, "trial", _LONG_S + _SHORT_S, bundle=folder, runtime=runtime, step_deadline_s=_LONG_S
        )
    except TargetError as error:
        if getattr(error, "kind", "") == "forbidden":
            raise TargetError(error.message, _REMEDY) from None
        refuse_forbidden(ground, python)
        raise


def refuse_forbidden(ground: Ground, python: tuple[str, ...]) -> None:
    """Raise `TargetError` when it is for a system call that this Python does not start."""
    status, _ = ground.run(["sh", "-c", '"$@"; exit $?', "sh", *python, "-c", ""], _SHORT_S)
    if status == _FORBIDDEN:
        raise TargetError(
            "the device's sandbox ends the Python that was sent for a system call that it makes (SIGSYS)",
            _REMEDY,
        )

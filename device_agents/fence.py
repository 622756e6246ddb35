"""Tokens of leases. A farm lends a device with a number that grows each time: a job with a lower one than the highest
that was seen here comes from a host that has lost its lease.

What was seen is a file's name beside the lock, `<farm>.<token>`: it is there or it is not, wherever the power fails.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from typing import Any

from device_agents.failure import Failure
from device_agents.files import sync_folder
from device_agents.job import Job

# It becomes a part of a file's name.
FARM = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True)
class Fence:
    """The lease that a job runs under: which farm's, and its token."""

    farm: str
    token: int

    def newer_than(self, other: Fence | None) -> bool:
        """Whether the same farm has lent the device again since; of another farm's nothing is known."""
        return other is not None and self.farm == other.farm and self.token > other.token


def of(job: Job) -> Fence | None:
    """The lease that a job names in its `lease`; None for one from somebody's desk."""
    if job.fields.get("lease") is None:
        return None
    part = job.part("lease")
    farm = part.text("farm")
    if not FARM.fullmatch(farm):
        raise Failure("job", f"expected {part.name}.farm to be hexadecimal. Received: {farm[:80]!r}")
    return Fence(farm, part.integer("token", 1))


def described(said: dict[str, Any]) -> Fence | None:
    """The lease in what a holder of the lock has written."""
    try:
        return Fence(str(said["farm"]), int(said["token"])) if "born" in said else None
    except (KeyError, TypeError, ValueError):
        return None


def check(lock_path: str, fence: Fence) -> None:
    """Raise Failure("fenced") where a higher token was seen."""
    highest = max(_seen(lock_path, fence.farm), default=0)
    if highest > fence.token:
        raise Failure(
            "fenced",
            f"the lease of this job (token {fence.token}) has ended, and the device was lent again (token {highest}); "
            "nothing was done here",
        )


def remember(lock_path: str, fence: Fence) -> None:
    """From here on lower tokens of that farm are refused. Raises Failure("fenced") where this one is.

    Two that come at once may both get here: `check` is asked again by whoever has the lock.
    """
    check(lock_path, fence)
    folder = _folder(lock_path)
    seen = _seen(lock_path, fence.farm)
    if fence.token in seen:
        return
    os.makedirs(folder, mode=0o755, exist_ok=True)
    os.close(os.open(_path(folder, fence.farm, fence.token), os.O_WRONLY | os.O_CREAT, 0o644))
    sync_folder(folder)
    for lower in (token for token in seen if token < fence.token):
        try:
            os.unlink(_path(folder, fence.farm, lower))
        except FileNotFoundError:
            continue


def forget(lock_path: str) -> None:
    """Remove all that is known of leases."""
    shutil.rmtree(_folder(lock_path), ignore_errors=True)


def _folder(lock_path: str) -> str:
    return f"{lock_path}.tokens"


def _path(folder: str, farm: str, token: int) -> str:
    return os.path.join(folder, f"{farm}.{token}")


def _seen(lock_path: str, farm: str) -> list[int]:
    try:
        names = os.listdir(_folder(lock_path))
    except FileNotFoundError:
        return []
    parts = [name.partition(".") for name in names]
    return [int(token) for of, _, token in parts if of == farm and token.isdigit()]

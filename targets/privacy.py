"""What others on a device must not do with what is ours there."""

from __future__ import annotations

from targets.errors import TargetError
from targets.transports import Transport

ROOT = "logged in as root: a hostile model would have all rights there; an account without them is enough"
_DEADLINE_S = 30.0
# Private where it is new. Where it is there, chmod fails for any but its owner, and that is what we want to know.
_MAKE = 'umask 077; mkdir -p -- "$1" && chmod go-w -- "$1"'


def make_private(transport: Transport, workdir: str) -> None:
    """See that the working folder is there, is ours, and that nobody else can write in it. Raises `TargetError`.

    The agent lies in it: who could change that file would run as the user who logs in.
    """
    done = transport.run(["sh", "-c", _MAKE, "sh", workdir], deadline_s=_DEADLINE_S)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-300:]
        raise TargetError(
            f"the workdir {workdir!r} cannot be made, or is not the login user's own: {said}",
            "name a folder of that user's with the target's 'workdir:'",
        )

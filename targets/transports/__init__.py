"""How a device is reached: one file a transport, each with `Options`, `connect(options)` and `DEFAULT_PYTHON`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Completed:
    """A command that ended on the device; `stderr` is its last 64 KiB at most."""

    returncode: int
    stdout: bytes
    stderr: bytes


class Transport(Protocol):
    """Files to and from a device, and commands on it. Each call owns its deadline, in seconds.

    Relative device paths are relative to the login folder (ssh), the options' `folder` (adb) or the working
    folder (local).
    Every method raises `TargetError` when the device or the way to it fails.
    """

    def put(self, source: Path, destination: str, *, deadline_s: float) -> None:
        """Copy a whole file to the device under a temporary name, then rename it."""

    def get(self, source: str, destination: Path, *, deadline_s: float) -> None:
        """Copy a whole file from the device under a temporary name, then rename it."""

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: Iterable[bytes] = (),
        deadline_s: float,
        on_line: Callable[[bytes], None] | None = None,
    ) -> Completed:
        """Run a command. Its standard input, given in pieces that are taken as they can be sent, stays open until it
        ends: the end of it says that the host is gone.

        With `on_line`, each complete line of standard output is handed over as it arrives, and
        `Completed.stdout` stays empty.
        """

    def close(self) -> None:
        """End the connection and the commands that run over it, whichever thread waits for them; harmless when it has
        ended already. A command that is asked of it from then on raises `TargetError`.
        """

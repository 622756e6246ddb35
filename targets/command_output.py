"""What a running command prints, taken in as it arrives; every transport shares this."""

from __future__ import annotations

from collections.abc import Callable

from targets.errors import TargetError
from targets.transports import Completed

STDERR_KEPT = 64 * 1024


class CommandOutput:
    """Standard output, whole or line by line (without the line's end), and the last 64 KiB of standard error.

    A last line without an end is not a line: `on_line` never sees half of one.
    """

    def __init__(self, on_line: Callable[[bytes], None] | None) -> None:
        self._on_line = on_line
        self._stdout = bytearray()
        self._stderr = bytearray()

    def add_stdout(self, data: bytes) -> None:
        """Take in standard output; hand over the lines it completes."""
        self._stdout += data
        if self._on_line and b"\n" in data:
            *lines, rest = self._stdout.split(b"\n")
            self._stdout = rest
            for line in lines:
                self._on_line(bytes(line))

    def add_stderr(self, data: bytes) -> None:
        """Take in standard error; keep its end."""
        self._stderr += data
        del self._stderr[:-STDERR_KEPT]

    def overdue(self, program: str, deadline_s: float) -> TargetError:
        """The error for a command that had to be ended, with the last lines of its standard error."""
        tail = self._stderr[-2000:].decode(errors="replace").strip()
        said = f"its standard error ends with:\n{tail}" if tail else "it wrote nothing to standard error"
        return TargetError(f"{program} was ended at its deadline of {deadline_s:g} s; {said}")

    def completed(self, returncode: int) -> Completed:
        """The result of a command that has ended."""
        stdout = b"" if self._on_line else bytes(self._stdout)
        return Completed(returncode, stdout, bytes(self._stderr))

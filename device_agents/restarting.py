"""The command that has the application take up another model."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Any

from device_agents.failure import Failure

OUTPUT_KEPT = 4096


def restart(argv: Sequence[str], deadline_s: float) -> dict[str, Any] | None:
    """Run the command without a shell, in a session of its own; its exit code and the end of what it printed.

    What it starts may live on, and keep its output: so that goes to a file, whose end nobody waits for. None without
    a command. Raises Failure("restart") unless it ends with 0 in time.
    """
    if not argv:
        return None
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        except OSError as error:
            raise Failure("restart", f"after_install: {argv[0]}: {error.strerror}") from None
        try:
            code = process.wait(deadline_s)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise Failure(
                "restart",
                f"after_install: {argv[0]} did not end within {deadline_s:g} s and was killed",
                stderr=_end_of(output),
            ) from None
        said = _end_of(output)
    if code:
        raise Failure("restart", f"after_install: {argv[0]} ended with code {code}", stderr=said)
    return {"code": code, "output": said}


def _end_of(output: Any) -> str:
    output.seek(max(0, output.seek(0, os.SEEK_END) - OUTPUT_KEPT))
    said: bytes = output.read()
    return said.decode(errors="replace")

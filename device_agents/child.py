"""One child process: a line in, what it prints out, and an end by its deadline at the latest."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from device_agents.failure import Failure

STDERR_KEPT = 8192


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code (minus the signal's number, if one killed it), all of its standard
    output, the tail of its standard error.
    """

    returncode: int
    stdout: bytes
    stderr: str

    @property
    def cause(self) -> str:
        """The exit in words."""
        if self.returncode >= 0:
            return f"exit code {self.returncode}"
        try:
            return signal.Signals(-self.returncode).name
        except ValueError:
            return f"signal {-self.returncode}"


def run(argv: Sequence[str], request: bytes, *, deadline_s: float) -> Ended:
    """Run a child to its end. Its input stays open until then: the end of it tells the child that we are
    gone.

    Past the deadline, or when an exception such as HostGone passes through, its process group is killed and
    the child reaped before this returns. Raises Failure("deadline").
    """
    # Linear algebra is the interpreter's business here: numpy's own threads would only cost memory and noise.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    with process:
        try:
            return _attend(process, request, deadline_s)
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def _attend(process: subprocess.Popen[bytes], request: bytes, deadline_s: float) -> Ended:
    assert process.stdin and process.stdout and process.stderr
    ends = time.monotonic() + deadline_s
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(request)
        process.stdin.flush()
    stdout, stderr = bytearray(), bytearray()
    with selectors.DefaultSelector() as streams:
        streams.register(process.stdout, selectors.EVENT_READ, stdout)
        streams.register(process.stderr, selectors.EVENT_READ, stderr)
        while streams.get_map():
            ready = streams.select(max(0.0, ends - time.monotonic()))
            if not ready:
                raise _late(deadline_s, stderr)
            for key, _ in ready:
                chunk = os.read(key.fd, 65536)
                key.data.extend(chunk)
                del stderr[:-STDERR_KEPT]
                if not chunk:
                    streams.unregister(key.fileobj)
    try:
        returncode = process.wait(max(0.0, ends - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise _late(deadline_s, stderr) from None
    return Ended(returncode, bytes(stdout), _text(stderr))


def _late(deadline_s: float, stderr: bytearray) -> Failure:
    message = f"it did not end within its deadline of {deadline_s:g} s and was killed"
    return Failure("deadline", message, stderr=_text(stderr))


def _text(stderr: bytearray) -> str:
    return stderr.decode(errors="replace")

"""The agent's two ends: JSON lines out, and an input whose end means that the other side is gone.

Native libraries print to descriptor 1 whenever they like. So the real standard output is kept under another
descriptor that children do not inherit, and descriptor 1 becomes a second standard error.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any, Callable, NoReturn

Emit = Callable[[Mapping[str, Any]], None]
STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class HostGone(BaseException):
    """Nobody is listening any more. A BaseException: only clean-up may come between it and the exit."""


def claim_stdout() -> Emit:
    """Keep the real standard output for JSON lines; everything else printed goes to standard error.

    The writer returned raises HostGone when the reader has closed its end.
    """
    real = os.dup(1)
    os.dup2(2, 1)

    def emit(event: Mapping[str, Any]) -> None:
        rest = memoryview(json.dumps(event, separators=(",", ":")).encode() + b"\n")
        try:
            while rest:
                rest = rest[os.write(real, rest) :]
        except BrokenPipeError:
            raise HostGone from None

    return emit


def read_line() -> bytes:
    """The one line that standard input carries; empty when the input ended before it."""
    return sys.stdin.buffer.readline()


def when_input_ends(act: Callable[[], object]) -> None:
    """Call `act` on a thread of its own as soon as standard input reports its end."""

    def watch() -> None:
        # os.read, not sys.stdin: a thread that waits inside a buffered reader blocks the interpreter's exit.
        while os.read(0, 65536):
            pass
        act()

    threading.Thread(target=watch, daemon=True).start()


def end_with_host() -> None:
    """From here on the end of input, or a signal to stop, raises HostGone on the main thread.

    The exception unwinds what is under way: the child is killed, temporary files go, the lock is released.
    """

    def stop(number: int, frame: object) -> NoReturn:
        outlive_host()
        raise HostGone

    for number in STOP_SIGNALS:
        signal.signal(number, stop)
    when_input_ends(lambda: os.kill(os.getpid(), signal.SIGTERM))


def outlive_host() -> None:
    """The work is over, or the clean-up has begun: a host that leaves now interrupts nothing."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)

"""The agent's two ends: JSON lines out, and an input whose end means that the other side is gone.

Native libraries print to descriptor 1 whenever they like. So the real standard output is kept under another
descriptor that children do not inherit, and descriptor 1 becomes a second standard error.
"""

from __future__ import annotations

import json
import os
import select
import signal
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Callable, NoReturn

Emit = Callable[[Mapping[str, Any]], None]
CHUNK = 1 << 18
# A host that is sending never pauses this long: it, or the network, has died without a word.
SILENCE_S = 60.0
_ahead = bytearray()
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
    """The first line of standard input; empty when the input ended before it. What came with it is kept."""
    while b"\n" not in _ahead and (chunk := os.read(0, CHUNK)):
        _ahead.extend(chunk)
    line, newline, rest = bytes(_ahead).partition(b"\n")
    _ahead[:] = rest
    return line + newline


def payload(size: int) -> Iterator[bytes]:
    """The `size` bytes that follow the line. Raises HostGone when they do not come, or nothing comes for a minute."""
    while size:
        chunk = bytes(_ahead[:size])
        del _ahead[:size]
        if not chunk:
            ready = select.select([0], [], [], SILENCE_S)[0]
            chunk = os.read(0, min(size, CHUNK)) if ready else b""
        if not chunk:
            raise HostGone
        size -= len(chunk)
        yield chunk


def when_input_ends(act: Callable[[], object]) -> None:
    """Call `act` on a thread of its own as soon as standard input reports its end."""

    def watch() -> None:
        # os.read, not sys.stdin: a thread that waits inside a buffered reader blocks the interpreter's exit.
        while os.read(0, 65536):
            pass
        act()

    threading.Thread(target=watch, daemon=True).start()


def end_with_host(*, watch_input: bool) -> None:
    """From here on a signal to stop raises HostGone on the main thread, and so does the end of input if it is watched.

    The exception unwinds what is under way: the child is killed, temporary files go, the lock is released. Who reads
    the input to its end does not have it watched.
    """

    def stop(number: int, frame: object) -> NoReturn:
        outlive_host()
        raise HostGone

    for number in STOP_SIGNALS:
        signal.signal(number, stop)
    if watch_input:
        when_input_ends(lambda: os.kill(os.getpid(), signal.SIGTERM))


def outlive_host() -> None:
    """The work is over, or the clean-up has begun: a host that leaves now interrupts nothing."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)

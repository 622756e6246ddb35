"""This machine as a device: the same protocol with subprocesses."""

from __future__ import annotations

import os
import secrets
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict

from targets import ending
from targets.command_output import CommandOutput
from targets.errors import TargetError
from targets.transports import Completed, Transport

DEFAULT_PYTHON = sys.executable
_CHUNK = 1 << 16


class Options(BaseModel):
    """Nothing to say: the device is where the pipeline runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def connect(options: Options) -> Transport:
    """Nothing to open."""
    return LocalTransport()


def device_of(options: Options) -> str:
    """There is one."""
    return "this machine"


class LocalTransport:
    """Files are copied; a command is a child in a session of its own, so that it ends with all it started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[int] = set()
        self._closed = False

    def put(self, source: Path, destination: str, *, deadline_s: float) -> None:
        _copy(source, Path(destination), deadline_s)

    def get(self, source: str, destination: Path, *, deadline_s: float) -> None:
        _copy(Path(source), destination, deadline_s)

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: Iterable[bytes] = (),
        deadline_s: float,
        on_line: Callable[[bytes], None] | None = None,
    ) -> Completed:
        output = CommandOutput(on_line)
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(
                argv, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, start_new_session=True
            )
        except OSError as error:
            # What a shell answers, and so what a device answers over SSH.
            return Completed(127, b"", f"{argv[0]}: {error.strerror}\n".encode(errors="replace"))
        with process, self._ended_by_close(process):
            try:
                return output.completed(
                    _converse(process, iter(stdin), output, time.monotonic() + deadline_s)
                )
            except BaseException as error:
                _end(process.pid, process.poll)
                if isinstance(error, TimeoutError):
                    raise output.overdue(argv[0], deadline_s) from None
                raise

    def close(self) -> None:
        with self._lock:
            self._closed = True
            running = list(self._running)
        for process in running:
            _end(process, lambda: None)

    @contextmanager
    def _ended_by_close(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        with self._lock:
            if self._closed:
                _signal(process.pid, signal.SIGKILL)
            self._running.add(process.pid)
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(process.pid)
        if self._closed:
            raise TargetError("this machine: the connection was closed")


def _end(process: int, reap: Callable[[], object]) -> None:
    """End a process and all it started: asked first, so that it can put back what it has changed, then killed."""
    ends = time.monotonic() + ending.PATIENCE_S
    number: int = signal.SIGTERM
    while _signal(process, number) and time.monotonic() < ends:
        number = 0  # only asks whether there is anybody left
        time.sleep(0.01)
        reap()
    _signal(process, signal.SIGKILL)


def _signal(process: int, number: int) -> bool:
    """Send a signal to a group of processes; is there one?"""
    try:
        os.killpg(process, number)
    except ProcessLookupError:
        return False
    return True


def _converse(
    process: subprocess.Popen[bytes], stdin: Iterator[bytes], output: CommandOutput, deadline: float
) -> int:
    """Feed and drain `process` until it ends; its return code. Raises `TimeoutError` past `deadline`."""
    assert process.stdin and process.stdout and process.stderr
    takers: dict[IO[bytes], Callable[[bytes], None]] = {
        process.stdout: output.add_stdout,
        process.stderr: output.add_stderr,
    }
    unsent = memoryview(next(stdin, b""))
    with selectors.DefaultSelector() as selector:
        for stream in takers:
            selector.register(stream, selectors.EVENT_READ)
        os.set_blocking(process.stdin.fileno(), False)
        if unsent:
            selector.register(process.stdin, selectors.EVENT_WRITE)
        while takers:
            for key, _ in selector.select(_remaining(deadline)):
                if key.fileobj is process.stdin:
                    try:
                        unsent = unsent[os.write(process.stdin.fileno(), unsent[:_CHUNK]) :]
                        unsent = unsent or memoryview(next(stdin, b""))
                    except BrokenPipeError:
                        unsent = unsent[:0]  # the command does not read the rest
                    if not unsent:
                        selector.unregister(process.stdin)
                elif data := os.read(key.fd, _CHUNK):
                    takers[key.fileobj](data)  # type: ignore[index]
                else:
                    selector.unregister(key.fileobj)
                    del takers[key.fileobj]  # type: ignore[arg-type]
    try:
        return process.wait(_remaining(deadline))
    except subprocess.TimeoutExpired as error:
        raise TimeoutError from error


def _remaining(deadline: float) -> float:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    return remaining


def _copy(source: Path, destination: Path, deadline_s: float) -> None:
    deadline = time.monotonic() + deadline_s
    temporary = destination.with_name(f"{destination.name}.part-{secrets.token_hex(4)}")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with source.open("rb") as reader, temporary.open("xb") as writer:
            while data := reader.read(1 << 20):
                _remaining(deadline)
                writer.write(data)
            writer.flush()
            os.fsync(writer.fileno())
        os.replace(temporary, destination)
    except TimeoutError:
        raise TargetError(f"copying {source} to {destination} took more than {deadline_s:g} s") from None
    except OSError as error:
        raise TargetError(f"could not copy {source} to {destination}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)

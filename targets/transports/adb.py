"""An Android phone behind an adb server: commands over `shell_v2`, files over `sync`, which every adb daemon has."""

from __future__ import annotations

import os
import posixpath
import secrets
import shlex
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from targets import ending as end_of_command
from targets.adb_phone import find_phone, unusable
from targets.adb_server import LONGEST_REQUEST, Gone, Options, Overdue, Refused, Stream, device_service
from targets.command_output import CommandOutput
from targets.errors import TargetError
from targets.transports import Completed, Transport

__all__ = ["DEFAULT_PYTHON", "Options", "connect"]

DEFAULT_PYTHON = "python3"
_CHUNK = 1 << 16  # the daemon takes no longer piece of a file
_END_DEADLINE_S = 5.0
_STDIN, _STDOUT, _STDERR, _EXIT = range(4)
_SIGNALLED = 128
# The daemon gives group and others the owner's rights, so that 0644 would become writable by all.
_MODE = 0o100444
_FINISH = """
if [ -d "$1" ]; then echo "$1: Is a directory" >&2; exit 1; fi
chmod 644 -- "$0" && mv -f -- "$0" "$1"
"""


def connect(options: Options) -> Transport:
    """Find the phone, or raise `TargetError` within the options' `connect_timeout_s`."""
    return AdbTransport(options, find_phone(options))


def device_of(options: Options) -> str:
    """The phone that is meant, and the adb server that has it. Raises `TargetError` where there is none."""
    host, port = options.address
    return f"{find_phone(options)} at {host}:{port}"


class AdbTransport:
    """One phone; each command and each file has a connection of its own to the adb server."""

    def __init__(self, options: Options, serial: str) -> None:
        self._options = options
        self._serial = serial
        self._streams: set[Stream] = set()
        self._running: set[_Command] = set()
        self._closed = False

    def put(self, source: Path, destination: str, *, deadline_s: float) -> None:
        deadline = time.monotonic() + deadline_s
        there = posixpath.join(self._options.folder, destination)
        temporary = f"{there}.part-{secrets.token_hex(4)}"
        doing = f"copy {source} to {self._serial}:{destination}"
        try:
            with source.open("rb") as reader:
                self._do(doing, ["mkdir", "-p", "--", posixpath.dirname(there)], deadline)
                with self._service(doing, b"sync:", deadline) as stream:
                    _send_file(stream, reader, temporary)
            self._do(doing, ["sh", "-c", _FINISH, temporary, there], deadline)
        except BaseException as error:
            with suppress(TargetError):
                self.run(["rm", "-f", "--", temporary], deadline_s=_END_DEADLINE_S)
            if isinstance(error, OSError):
                raise TargetError(f"could not {doing}: {error.strerror or error}") from error
            raise

    def get(self, source: str, destination: Path, *, deadline_s: float) -> None:
        deadline = time.monotonic() + deadline_s
        there = posixpath.join(self._options.folder, source)
        temporary = destination.with_name(f"{destination.name}.part-{secrets.token_hex(4)}")
        doing = f"copy {self._serial}:{source} to {destination}"
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as writer, self._service(doing, b"sync:", deadline) as stream:
                _receive_file(stream, there, writer)
                writer.flush()
                os.fsync(writer.fileno())
            os.replace(temporary, destination)
        except OSError as error:
            raise TargetError(f"could not {doing}: {error.strerror or error}") from error
        finally:
            temporary.unlink(missing_ok=True)

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: Iterable[bytes] = (),
        deadline_s: float,
        on_line: Callable[[bytes], None] | None = None,
    ) -> Completed:
        output = CommandOutput(on_line)
        command = _Command(output)
        doing = f"run {argv[0]} on {self._serial}"
        service = _shell_service(self._options.folder, argv)
        if len(service) > LONGEST_REQUEST:
            raise TargetError(
                f"could not {doing}: its arguments take {len(service)} bytes; adb sends {LONGEST_REQUEST} at most"
            )
        self._check_open(doing)
        self._running.add(command)
        try:
            with self._service(doing, service, time.monotonic() + deadline_s) as stream:
                try:
                    status = command.run(stream, stdin)
                except Overdue:
                    raise output.overdue(argv[0], deadline_s) from None
        except BaseException:
            self._end(command.process)
            raise
        finally:
            self._running.discard(command)
        self._check_open(doing)
        if command.process is None:
            raise TargetError(
                f"could not {doing}: its shell answered {output.completed(status).stderr!r}",
                f"expected a shell that may run commands in {self._options.folder} (the target's adb.folder)",
            )
        return output.completed(_SIGNALLED - status if status > _SIGNALLED else status)

    def close(self) -> None:
        self._closed = True
        for command in list(self._running):
            self._end(command.process)
        for stream in list(self._streams):
            stream.cut()

    @contextmanager
    def _service(
        self, doing: str, service: bytes, deadline: float, *, ending: bool = False
    ) -> Iterator[Stream]:
        """A service of the phone's adb daemon; what goes wrong with it comes out as `TargetError`. When all has been
        closed, there is none but to end what still runs.
        """
        joined = False
        try:
            with device_service(self._options, self._serial, service, deadline) as stream:
                joined = True
                self._streams.add(stream)
                if self._closed and not ending:
                    stream.cut()
                try:
                    yield stream
                finally:
                    self._streams.discard(stream)
        except Overdue:
            raise TargetError(f"could not {doing} in time: its deadline has passed") from None
        except Gone as error:
            raise TargetError(
                f"could not {doing}: connection lost",
                "is the phone on, its cable in or its network up? `adb devices` must show it",
            ) from error
        except Refused as error:
            if not joined:
                raise unusable(self._serial, str(error)) from error
            if "No space left" in str(error):
                raise TargetError(
                    f"could not {doing}: the device's disk is full", "make room there"
                ) from error
            raise TargetError(f"could not {doing}: {error}") from error

    def _do(self, doing: str, argv: Sequence[str], deadline: float) -> None:
        """Run a command as a part of `doing`, which fails with it."""
        done = self.run(argv, deadline_s=max(0.01, deadline - time.monotonic()))
        if done.returncode:
            raise TargetError(f"could not {doing}: {done.stderr.decode(errors='replace').strip()}")

    def _check_open(self, doing: str) -> None:
        if self._closed:
            raise TargetError(f"could not {doing}: the connection was closed")

    def _end(self, process: int | None) -> None:
        """End the command and all it started: the daemon only hangs up on it."""
        if process is not None:
            script = b"shell,v2,raw:" + end_of_command.script(process).encode()
            deadline = time.monotonic() + _END_DEADLINE_S
            with suppress(TargetError, Gone), self._service("kill", script, deadline, ending=True) as stream:
                stream.exchange(memoryview(b""))


def _shell_service(folder: str, argv: Sequence[str]) -> bytes:
    """The request that runs a command.

    The shell says its process id, then becomes the command. The daemon's own umask is 0. When the host goes, the
    daemon hangs up on the command, which shall learn of it from the end of its input alone, as everywhere.
    """
    line = f"umask 022; cd {shlex.quote(folder)} && echo $$ && trap '' HUP && exec {shlex.join(argv)}"
    return b"shell,v2,raw:" + os.fsencode(line)


class _Command:
    """One command on the phone; `process` is its id, and its group's, as soon as it runs."""

    def __init__(self, output: CommandOutput) -> None:
        self.process: int | None = None
        self._output = output
        self._greeting = b""

    def run(self, stream: Stream, stdin: Iterable[bytes]) -> int:
        """Feed and drain until the command ends: its exit status, 128 and the signal's number for a signal."""
        packets = _input_packets(stdin)
        unsent = memoryview(b"")
        received = bytearray()
        while True:
            unsent = unsent or memoryview(next(packets, b""))
            data, unsent = stream.exchange(unsent)
            received += data
            while len(received) >= 5:
                kind, length = struct.unpack_from("<BI", received)
                if len(received) < 5 + length:
                    break
                content = bytes(received[5 : 5 + length])
                del received[: 5 + length]
                if kind == _EXIT:
                    return content[0]
                self._take(kind, content)

    def _take(self, kind: int, content: bytes) -> None:
        if kind == _STDERR:
            self._output.add_stderr(content)
        elif kind == _STDOUT and self.process is not None:
            self._output.add_stdout(content)
        elif kind == _STDOUT:
            self._greeting += content
            number, newline, rest = self._greeting.partition(b"\n")
            if newline and number.isdigit():
                self.process = int(number)
                self._output.add_stdout(rest)


def _input_packets(stdin: Iterable[bytes]) -> Iterator[bytes]:
    for data in stdin:
        for start in range(0, len(data), _CHUNK):
            piece = data[start : start + _CHUNK]
            yield struct.pack("<BI", _STDIN, len(piece)) + piece


def _send_file(stream: Stream, reader: BinaryIO, path: str) -> None:
    """The daemon removes a file that it did not get whole."""
    name = os.fsencode(path) + b",%d" % _MODE
    stream.send(b"SEND" + struct.pack("<I", len(name)) + name)
    with suppress(Gone):  # why it was closed can still be read
        while (data := reader.read(_CHUNK)) and not stream.has_answer():
            stream.send(b"DATA" + struct.pack("<I", len(data)) + data)
        stream.send(b"DONE" + struct.pack("<I", int(time.time())))
    _receive_header(stream, b"OKAY")


def _receive_file(stream: Stream, path: str, writer: BinaryIO) -> None:
    name = os.fsencode(path)
    stream.send(b"RECV" + struct.pack("<I", len(name)) + name)
    while (length := _receive_header(stream, b"DATA", b"DONE")) is not None:
        writer.write(stream.receive(length))


def _receive_header(stream: Stream, *expected: bytes) -> int | None:
    """The length of what follows an answer of the `sync` service; None after its last. Raises `Refused`."""
    kind, length = struct.unpack("<4sI", stream.receive(8))
    if kind == b"FAIL":
        raise Refused(stream.receive(length).decode(errors="replace"))
    if kind not in expected:
        raise Refused(f"the adb daemon answered {kind!r}, which is not its protocol")
    return length if kind == b"DATA" else None

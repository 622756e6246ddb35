"""A device behind an SSH server: commands over exec channels, files over SFTP or, where there is none, over `cat`."""

from __future__ import annotations

import os
import posixpath
import secrets
import select
import shlex
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import paramiko

from targets import ending
from targets.command_output import CommandOutput
from targets.errors import TargetError
from targets.ssh_files import Files, SftpFiles, ShellFiles
from targets.ssh_login import Login, Options, alarm, log_in
from targets.ssh_options import route
from targets.transports import Completed, Transport

__all__ = ["DEFAULT_PYTHON", "Options", "connect"]

DEFAULT_PYTHON = "python3"
_FAILURES = (paramiko.SSHException, paramiko.SFTPError, OSError, EOFError)
_CHUNK = 1 << 16
_SEND_POLL_S = 0.02
_END_DEADLINE_S = 5.0


def connect(options: Options) -> Transport:
    """Log in, or raise `TargetError` within `connect_timeout_s` for each server on the way (name resolution on top)."""
    return SshTransport(log_in(options))


def device_of(options: Options) -> str:
    """The servers on the way to it, whoever logs in."""
    return " via ".join(f"{server.host}:{server.port}" for server in reversed(route(options)))


class _NeverRan(TargetError):
    """A channel that ended before its command began, on a connection that lives. Seen with dropbear, right after it was
    asked on another channel for the SFTP that it does not have; why it ends the new one is not known."""


class SshTransport:
    """One connection; each command and each file has a channel of its own in it."""

    def __init__(self, login: Login) -> None:
        self._login = login
        self._transport = login.transport
        self._device = login.device
        self._has_sftp = True
        self._running: set[_Command] = set()
        self._closed = False

    def put(self, source: Path, destination: str, *, deadline_s: float) -> None:
        try:
            self._put(source, destination, deadline_s)
        except _NeverRan:
            self._put(source, destination, deadline_s)

    def _put(self, source: Path, destination: str, deadline_s: float) -> None:
        folder = posixpath.dirname(destination)
        temporary = f"{destination}.part-{secrets.token_hex(4)}"
        doing = f"copy {source} to {self._device}:{destination}"
        try:
            with source.open("rb") as reader, self._files(doing, deadline_s) as files:
                files.put(reader, temporary, destination)
        except OSError as error:
            full = self._is_full(folder or ".", source)  # asked while the unfinished file still fills it
            self._remove(temporary)
            if full:
                raise TargetError(
                    f"could not {doing}: the device's disk is full", "make room there"
                ) from error
            raise TargetError(f"could not {doing}: {error.strerror or error}") from error
        except BaseException:
            self._remove(temporary)
            raise

    def get(self, source: str, destination: Path, *, deadline_s: float) -> None:
        temporary = destination.with_name(f"{destination.name}.part-{secrets.token_hex(4)}")
        doing = f"copy {self._device}:{source} to {destination}"
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as writer, self._files(doing, deadline_s) as files:
                files.get(source, writer)
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
        doing = f"run {argv[0]} on {self._device}"
        return self._run(doing, argv, stdin, CommandOutput(on_line), deadline_s)

    def _run(
        self,
        doing: str,
        argv: Sequence[str],
        stdin: Iterable[bytes],
        output: CommandOutput,
        deadline_s: float,
        *,
        end_input: bool = False,
    ) -> Completed:
        command = _Command(output)
        self._running.add(command)
        try:
            with self._channel(doing, deadline_s) as (channel, overdue):
                status = command.run(channel, argv, stdin, end_input=end_input)
                if overdue.is_set():
                    raise output.overdue(argv[0], deadline_s)
        except BaseException:
            self._end(command.process)
            raise
        finally:
            self._running.discard(command)
        if self._closed:
            raise TargetError(f"could not {doing}: the connection was closed")
        if status < 0 and not self._alive():
            raise self._lost(doing)
        if command.process is None:
            raise (_NeverRan if status < 0 else TargetError)(
                f"could not {doing}: its login shell answered {output.completed(status).stderr!r}",
                "expected a POSIX shell that may run commands",
            )
        return output.completed(status)

    def close(self) -> None:
        self._closed = True
        for command in list(self._running):
            self._end(command.process)
        self._login.close()

    @contextmanager
    def _channel(self, doing: str, deadline_s: float) -> Iterator[tuple[paramiko.Channel, threading.Event]]:
        """A new channel that is closed under its user's feet at the deadline; the event says that it was."""
        deadline = time.monotonic() + deadline_s
        try:
            channel = self._transport.open_session(timeout=deadline_s)
        except (paramiko.SSHException, OSError, EOFError) as error:
            if time.monotonic() >= deadline:
                raise TargetError(f"could not {doing} within {deadline_s:g} s") from error
            if isinstance(error, paramiko.ChannelException):
                raise TargetError(f"could not {doing}: the SSH server refused: {error.text}") from error
            raise self._lost(doing) from error
        with channel, alarm(deadline - time.monotonic(), channel.close) as rang:
            yield channel, rang

    @contextmanager
    def _files(self, doing: str, deadline_s: float) -> Iterator[Files]:
        """A way to the device's files. What is wrong with a file, here or there, comes out as `OSError`."""
        deadline = time.monotonic() + deadline_s
        if self._has_sftp:
            with self._channel(doing, deadline_s) as (channel, overdue):
                started = False
                try:
                    channel.invoke_subsystem("sftp")
                    session = paramiko.SFTPClient(channel)
                    started = True
                    yield SftpFiles(session)
                except _FAILURES as error:
                    if overdue.is_set():
                        raise TargetError(f"could not {doing} within {deadline_s:g} s") from error
                    if not self._alive():
                        raise self._lost(doing) from error
                    if not started:
                        self._has_sftp = False
                    elif isinstance(error, OSError):
                        raise
                    else:
                        raise TargetError(
                            f"could not {doing}: the device's SFTP server answered: {error or 'nothing'}"
                        ) from error
        if not self._has_sftp:

            def run(argv: Sequence[str], stdin: Iterable[bytes], output: CommandOutput) -> Completed:
                left = max(0.0, deadline - time.monotonic())
                return self._run(doing, argv, stdin, output, left, end_input=True)

            yield ShellFiles(run, doing)

    def _alive(self) -> bool:
        try:
            self._transport.open_session(timeout=_END_DEADLINE_S).close()
        except paramiko.ChannelException:
            return True  # refused, so somebody is there
        except paramiko.SSHException as error:
            # Paramiko may lose the new channel to the end of an old one whose number dropbear gave it again.
            return "Timeout" not in str(error) and self._transport.is_active()
        except (OSError, EOFError):
            return False
        return True

    def _lost(self, doing: str) -> TargetError:
        return TargetError(f"could not {doing}: connection lost", "is the device on, and its network up?")

    def _end(self, process: int | None) -> None:
        """End the command and all it started. Closing a channel ends only those that read or write."""
        if process is not None and self._transport.is_active():
            with suppress(TargetError, *_FAILURES), self._channel("kill", _END_DEADLINE_S) as (channel, _):
                channel.exec_command(ending.script(process))
                channel.recv_exit_status()

    def _remove(self, path: str) -> None:
        if self._transport.is_active():
            with suppress(TargetError, *_FAILURES), self._files("remove", _END_DEADLINE_S) as files:
                files.remove(path)

    def _is_full(self, folder: str, source: Path) -> bool:
        """Whether `source` finds no room: SFTP has no word for a full disk."""
        with suppress(TargetError, OSError, ValueError, IndexError):
            done = self.run(["df", "-Pk", "--", folder], deadline_s=_END_DEADLINE_S)
            return int(done.stdout.splitlines()[1].split()[3]) * 1024 < source.stat().st_size
        return False


class _Command:
    """One command on the device; `process` is its id, and its group's, as soon as it runs."""

    def __init__(self, output: CommandOutput) -> None:
        self.process: int | None = None
        self._output = output
        self._mark = f"edgepipe-{secrets.token_hex(8)} ".encode()
        self._greeting = b""

    def run(
        self, channel: paramiko.Channel, argv: Sequence[str], stdin: Iterable[bytes], *, end_input: bool
    ) -> int:
        """Feed and drain until the command ends or the channel does: its exit status, or -1 for none."""
        line = f"echo '{self._mark.decode()}'$$; exec {shlex.join(argv)}"
        with suppress(*_FAILURES):  # the channel is closed then: so the loop finds it
            channel.exec_command(os.fsencode(line))
        channel.settimeout(_SEND_POLL_S)
        poller = select.poll()
        poller.register(channel, select.POLLIN)
        chunks = iter(stdin)
        unsent: memoryview | None = memoryview(b"")
        ended = False
        while not ended:
            if unsent is not None and not unsent:
                unsent = _next(chunks)
                if unsent is None and end_input:
                    with suppress(*_FAILURES):
                        channel.shutdown_write()
            if unsent is None:
                poller.poll()
            ended = bool(channel.eof_received or channel.closed)
            if unsent:
                with suppress(*_FAILURES):  # no room yet, or closed at this moment; EOFError: the network is
                    unsent = unsent[channel.send(bytes(unsent[:_CHUNK])) :]
            while channel.recv_ready():
                self._take(channel.recv(_CHUNK))
            while channel.recv_stderr_ready():
                self._output.add_stderr(channel.recv_stderr(_CHUNK))
        return channel.recv_exit_status()

    def _take(self, data: bytes) -> None:
        """The shell says its process id, then becomes the command. A greeting before that is dropped."""
        if self.process is None:
            self._greeting += data
            number, newline, data = self._greeting.partition(self._mark)[2].partition(b"\n")
            if not newline:
                return
            self.process = int(number)
        self._output.add_stdout(data)


def _next(chunks: Iterator[bytes]) -> memoryview | None:
    """What is to be sent next, empty for an empty chunk; None at the end."""
    chunk = next(chunks, None)
    return None if chunk is None else memoryview(chunk)

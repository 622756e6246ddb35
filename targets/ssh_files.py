"""Files through an SSH server: over SFTP, or over `cat` where the server has no SFTP (dropbear's often has none)."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Protocol

import paramiko

from targets.command_output import CommandOutput
from targets.errors import TargetError
from targets.transports import Completed

_CHUNK = 1 << 18
# What every shell of a device knows: dash, mksh, the shells of BusyBox and toybox. Data are arguments, never script.
_PUT = """
umask g-w,o-w
mkdir -p "$2" && cat > "$0" || exit
got=$(wc -c < "$0")
[ "$got" -eq "$3" ] || { echo "$got of $3 bytes arrived" >&2; exit 1; }
[ ! -d "$1" ] || { echo "a folder is in its place" >&2; exit 1; }
mv -f "$0" "$1"
"""


class Files(Protocol):
    """What is wrong with a file, here or on the device, comes out as `OSError`."""

    def put(self, reader: IO[bytes], temporary: str, destination: str) -> None:
        """Write `temporary` on the device, its folder made if need be, then rename it to `destination`."""

    def get(self, source: str, writer: IO[bytes]) -> None:
        """Read a whole file of the device's."""

    def remove(self, path: str) -> None:
        """Delete a file of the device's."""


class SftpFiles:
    """Over an SFTP session."""

    def __init__(self, session: paramiko.SFTPClient) -> None:
        self._session = session

    def put(self, reader: IO[bytes], temporary: str, destination: str) -> None:
        """See `Files`."""
        self._make_folders(posixpath.dirname(destination))
        self._session.putfo(reader, temporary, confirm=True)
        self._session.posix_rename(temporary, destination)

    def get(self, source: str, writer: IO[bytes]) -> None:
        """See `Files`."""
        # Paramiko prefetches in a thread that dies with a traceback when the connection does.
        self._session.getfo(source, writer, prefetch=False)

    def remove(self, path: str) -> None:
        """See `Files`."""
        self._session.remove(path)

    def _make_folders(self, folder: str) -> None:
        if folder in ("", "/"):
            return
        try:
            self._session.stat(folder)
        except FileNotFoundError:
            self._make_folders(posixpath.dirname(folder))
            try:
                self._session.mkdir(folder, 0o755)
            except OSError:
                self._session.stat(folder)  # another host made it meanwhile


class ShellFiles:
    """Over `cat` in the device's shell.

    `run` runs a command, feeds it to the end of its input, and gives what it prints to the output it is handed.
    """

    def __init__(
        self,
        run: Callable[[Sequence[str], Iterator[bytes], CommandOutput], Completed],
        doing: str,
    ) -> None:
        self._run = run
        self._doing = doing

    def put(self, reader: IO[bytes], temporary: str, destination: str) -> None:
        """See `Files`."""
        folder = posixpath.dirname(destination) or "."
        size = str(os.fstat(reader.fileno()).st_size)
        arguments = [_path(temporary), _path(destination), _path(folder), size]
        self._do(["sh", "-c", _PUT, *arguments], _chunks(reader))

    def get(self, source: str, writer: IO[bytes]) -> None:
        """See `Files`."""
        self._do(["cat", _path(source)], iter(()), writer)

    def remove(self, path: str) -> None:
        """See `Files`."""
        self._do(["rm", "-f", _path(path)], iter(()))

    def _do(self, argv: Sequence[str], stdin: Iterator[bytes], writer: IO[bytes] | None = None) -> None:
        done = self._run(argv, stdin, _FileOutput(self._doing, writer))
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()
            raise OSError(said or f"{argv[0]} ended with code {done.returncode}")


class _FileOutput(CommandOutput):
    """Standard output goes to a file; there is no telling of lines in it."""

    def __init__(self, doing: str, writer: IO[bytes] | None) -> None:
        super().__init__(None)
        self._doing = doing
        self._writer = writer

    def add_stdout(self, data: bytes) -> None:
        if self._writer is not None:
            self._writer.write(data)

    def overdue(self, program: str, deadline_s: float) -> TargetError:
        return TargetError(f"could not {self._doing} within {deadline_s:g} s")


def _path(path: str) -> str:
    """A path that no command takes for an option."""
    return path if path.startswith("/") else f"./{path}"


def _chunks(reader: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: reader.read(_CHUNK), b"")

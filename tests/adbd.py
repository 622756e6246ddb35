"""A stand-in for Android's adb daemon, which Debian has not: the phone's end of the protocol, for the real adb server.

`python -m tests.adbd [--root FOLDER] [--user ID] [--unauthorized] [SHELL...]` prints its port. Commands run in SHELL
(/bin/sh); files lie below --root, and are made for the user --user. As the daemon does: umask 0, one socket for a
command's input and output, a session for each command, SIGHUP for it when the host goes, and for files the owner's
rights given to everybody.
"""

from __future__ import annotations

import argparse
import os
import queue
import signal
import socket
import stat
import struct
import subprocess
import threading
from contextlib import suppress

VERSION, LARGEST = 0x01000001, 1 << 18
CHUNK = 1 << 16
BANNER = (
    b"device::ro.product.name=stand;ro.product.model=Stand_In;ro.product.device=stand;features=shell_v2,cmd"
)


class Closed(Exception):
    """The stream or the whole connection has ended."""


class Host:
    """The connection to an adb server, and the streams in it."""

    def __init__(self, connection: socket.socket, options: argparse.Namespace) -> None:
        self.connection, self.options = connection, options
        self.streams: dict[int, Stream] = {}
        self._sending = threading.Lock()

    def serve(self) -> None:
        try:
            while True:
                command, first, second, length = struct.unpack("<4sIII8x", self._receive(24))
                self._take(command, first, second, self._receive(length))
        except (OSError, Closed):
            for stream in list(self.streams.values()):
                stream.end()

    def send(self, command: bytes, first: int, second: int, data: bytes = b"") -> None:
        magic = struct.unpack("<I", command)[0] ^ 0xFFFFFFFF
        with self._sending:
            self.connection.sendall(
                struct.pack("<4sIIIII", command, first, second, len(data), 0, magic) + data
            )

    def _take(self, command: bytes, first: int, second: int, data: bytes) -> None:
        if command in (b"CNXN", b"AUTH") and self.options.unauthorized:
            if command == b"CNXN" or first == 2:  # not its key; the next it offers shows a dialog
                self.send(b"AUTH", 1, 0, os.urandom(20))
        elif command == b"CNXN":
            self.send(b"CNXN", VERSION, LARGEST, BANNER)
        elif command == b"OPEN":
            stream = Stream(self, len(self.streams) + 1, first)
            self.streams[stream.number] = stream
            threading.Thread(target=stream.serve, args=(data.rstrip(b"\0"),), daemon=True).start()
        elif second in self.streams:
            self.streams[second].take(command, data)

    def _receive(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.connection.recv(count - len(data))
            if not piece:
                raise Closed
            data += piece
        return data


class Stream:
    """One service that the host has opened; a piece each way waits to be acknowledged before the next."""

    def __init__(self, host: Host, number: int, theirs: int) -> None:
        self.host, self.number, self._theirs = host, number, theirs
        self._arrived: queue.Queue[bytes | None] = queue.Queue()
        self._rest = b""
        self._may_send = threading.Semaphore(0)
        self._writing = threading.Lock()
        self._ended = False

    def take(self, command: bytes, data: bytes) -> None:
        if command == b"OKAY":
            self._may_send.release()
        elif command == b"WRTE":
            self._arrived.put(data)
        elif command == b"CLSE":
            self.end()

    def end(self) -> None:
        self._ended = True
        self._arrived.put(None)
        self._may_send.release()

    def read(self, count: int) -> bytes:
        while len(self._rest) < count:
            data = self._arrived.get()
            if data is None:
                self._arrived.put(None)
                raise Closed
            self._rest += data
            self.host.send(b"OKAY", self.number, self._theirs)
        data, self._rest = self._rest[:count], self._rest[count:]
        return data

    def write(self, data: bytes) -> None:
        with self._writing:
            self._may_send.acquire()
            if self._ended:
                self._may_send.release()
                raise Closed
            self.host.send(b"WRTE", self.number, self._theirs, data)

    def serve(self, service: bytes) -> None:
        with suppress(OSError, Closed):
            if service.startswith(b"shell,v2,raw:") or service == b"sync:":
                self.host.send(b"OKAY", self.number, self._theirs)
                self._may_send.release()
                if service == b"sync:":
                    while sync(self, self.host.options):
                        pass
                else:
                    shell(self, self.host.options.shell, service.removeprefix(b"shell,v2,raw:"))
            self.host.send(b"CLSE", self.number, self._theirs)


def shell(stream: Stream, shell_argv: list[str], command: bytes) -> None:
    """Input as packets of kind 0, output as 1, errors as 2; 3 is the exit code, and ends it."""
    inout, child = socket.socketpair()
    errors, child_errors = socket.socketpair()
    with child, child_errors:
        argv = [*map(os.fsencode, shell_argv), b"-c", command]
        process = subprocess.Popen(
            argv, stdin=child, stdout=child, stderr=child_errors, start_new_session=True, umask=0, cwd="/"
        )

    def feed() -> None:
        try:
            while True:
                _, length = struct.unpack("<BI", stream.read(5))
                data = stream.read(length)
                with suppress(OSError):  # the command does not read it
                    inout.sendall(data)
        except Closed:
            process.send_signal(signal.SIGHUP)
            for end in (inout, errors):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def drain(kind: int, end: socket.socket) -> None:
        with suppress(OSError, Closed):
            while data := end.recv(CHUNK):
                stream.write(struct.pack("<BI", kind, len(data)) + data)

    threading.Thread(target=feed, daemon=True).start()
    drains = [threading.Thread(target=drain, args=pair) for pair in ((1, inout), (2, errors))]
    for thread in drains:
        thread.start()
    for thread in drains:
        thread.join()
    code = process.wait()
    stream.write(struct.pack("<BIB", 3, 1, code if code >= 0 else 128 - code))


def sync(stream: Stream, options: argparse.Namespace) -> bool:
    """One request for a file; whether another may follow."""
    request, length = struct.unpack("<4sI", stream.read(8))
    if request == b"QUIT":
        return False
    name = stream.read(length)
    try:
        if request == b"SEND":
            name, _, mode = name.rpartition(b",")
            receive_file(stream, os.fsencode(options.root) + name, int(mode) & 0o777, options.user)
        elif request == b"RECV":
            send_file(stream, os.fsencode(options.root) + name)
        else:
            raise OSError(0, "unknown request")
    except OSError as error:
        reason = f"failed: {error.strerror}".encode()
        stream.write(b"FAIL" + struct.pack("<I", len(reason)) + reason)
        # The host need not look for an answer while it sends: what still comes is read, and dropped.
        while request == b"SEND" and next_piece(stream) is not None:
            continue
        return False
    return True


def next_piece(stream: Stream) -> bytes | None:
    kind, length = struct.unpack("<4sI", stream.read(8))
    return stream.read(length) if kind == b"DATA" else None


def receive_file(stream: Stream, path: bytes, mode: int, user: int) -> None:
    mode |= (mode >> 3) & 0o070
    mode |= (mode >> 3) & 0o007
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with os.fdopen(os.open(path, flags, mode), "wb", buffering=0) as writer:
        try:
            os.fchown(writer.fileno(), user, user)
            os.fchmod(writer.fileno(), mode)
            assert not os.fstat(writer.fileno()).st_mode & stat.S_IWOTH, "anybody could write to it"
            while (data := next_piece(stream)) is not None:
                while data:
                    data = data[writer.write(data) :]
        except BaseException:
            os.unlink(path)
            raise
    stream.write(b"OKAY" + struct.pack("<I", 0))


def send_file(stream: Stream, path: bytes) -> None:
    with open(path, "rb", buffering=0) as reader:
        while data := reader.read(CHUNK):
            stream.write(b"DATA" + struct.pack("<I", len(data)) + data)
    stream.write(b"DONE" + struct.pack("<I", 0))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", default="")
    parser.add_argument("--user", type=int, default=-1)
    parser.add_argument("--unauthorized", action="store_true")
    parser.add_argument("shell", nargs="*", default=["/bin/sh"])
    options = parser.parse_args()
    os.umask(0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        while True:
            connection, _ = server.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=Host(connection, options).serve, daemon=True).start()


if __name__ == "__main__":
    main()

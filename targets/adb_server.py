"""The adb server: the process on the host that holds the phones; every adb client, and this one, asks it.

Its protocol: a request is four hexadecimal digits of its length, then its text; the answer begins with OKAY, or with
FAIL and a reason. `host:transport:SERIAL` joins the connection to a device; the next request is a service of its
daemon (Android's packages/modules/adb: OVERVIEW.TXT, SERVICES.TXT).
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pydantic import BaseModel, ConfigDict, Field

from targets.errors import TargetError

USUAL_PORT = 5037
LONGEST_REQUEST = 0xFFFF
_CHUNK = 1 << 16
_LOCAL = ("127.0.0.1", "localhost", "::1")


class Options(BaseModel):
    """Which phone, and the adb server that holds it.

    `serial` is one of `adb devices`, or a phone's address and port, which the server is asked to connect to; null:
    $ANDROID_SERIAL, else the only device. `server` is an address and port; null: as the `adb` client finds it.
    A server on this machine that does not run is started with `client`. Relative paths on the device begin in `folder`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    serial: str | None = Field(default=None, pattern=r"^[^\s-]\S*$")
    server: str | None = Field(default=None, pattern=r"^(\[[0-9a-fA-F:]+\]|[^\s:\[\]]+):[0-9]{1,5}$")
    client: str = Field(default="adb", min_length=1)
    folder: str = Field(default="/data/local/tmp", pattern=r"^/[^\x00]*$")
    connect_timeout_s: float = Field(default=10, gt=0, le=60)

    @property
    def address(self) -> tuple[str, int]:
        """The server's: as given, else from the environment variables of the `adb` client, else 127.0.0.1:5037."""
        given, socket_name = self.server, os.environ.get("ADB_SERVER_SOCKET", "")
        if given is None and socket_name.startswith("tcp:"):
            given = socket_name.removeprefix("tcp:")
            given = f"127.0.0.1:{given}" if given.isdigit() else given
        if given is None:
            host = os.environ.get("ANDROID_ADB_SERVER_ADDRESS", "127.0.0.1")
            given = f"{host}:{os.environ.get('ANDROID_ADB_SERVER_PORT', USUAL_PORT)}"
        host, _, port = given.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise TargetError(
                f"expected HOST:PORT as the address of the adb server, received {given!r}",
                "correct the target's adb.server, or the environment variables ADB_SERVER_SOCKET, "
                "ANDROID_ADB_SERVER_ADDRESS and ANDROID_ADB_SERVER_PORT",
            )
        return host.strip("[]"), int(port)


class Overdue(Exception):
    """The deadline has passed."""


class Gone(Exception):
    """The other end has closed the connection."""


class Refused(Exception):
    """The adb server, or the phone's adb daemon, said FAIL; the text is its reason."""


class Stream:
    """Bytes to and from the server until a deadline of `time.monotonic()`. Raises `Overdue` and `Gone`."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline

    def send(self, data: bytes) -> None:
        """Send all of `data`."""
        with self._timed():
            self._connection.sendall(data)

    def receive(self, count: int) -> bytes:
        """Receive exactly `count` bytes."""
        received = bytearray()
        while len(received) < count:
            with self._timed():
                data = self._connection.recv(min(count - len(received), _CHUNK))
            if not data:
                raise Gone
            received += data
        return bytes(received)

    def has_answer(self) -> bool:
        """Whether something, an end included, has arrived by now."""
        poller = select.poll()
        poller.register(self._connection, select.POLLIN)
        return bool(poller.poll(0))

    def exchange(self, unsent: memoryview) -> tuple[bytes, memoryview]:
        """Wait until bytes arrive, or some of `unsent` can leave: what arrived, and what is still unsent."""
        poller = select.poll()
        poller.register(self._connection, select.POLLIN | (select.POLLOUT if unsent else 0))
        ready = dict(poller.poll(_remaining(self._deadline) * 1000))
        if not ready:
            raise Overdue
        events = ready[self._connection.fileno()]
        if unsent and events & select.POLLOUT:
            try:
                unsent = unsent[self._connection.send(unsent[:_CHUNK], socket.MSG_DONTWAIT) :]
            except BlockingIOError:
                pass
            except OSError:
                unsent = unsent[:0]  # nobody takes the rest; what was answered can still be read
        if not events & ~select.POLLOUT:
            return b"", unsent
        with self._timed():
            data = self._connection.recv(_CHUNK)
        if not data:
            raise Gone
        return data, unsent

    def cut(self) -> None:
        """End the connection under the feet of whoever waits for it, in another thread."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def ask(self, request: bytes) -> None:
        """Send a request and see it accepted. Raises `Refused`."""
        self.send(b"%04x" % len(request) + request)
        answer = self.receive(4)
        if answer == b"FAIL":
            raise Refused(self.receive_text())
        if answer != b"OKAY":
            raise Refused(f"answered {answer!r}, which is not the adb server's protocol")

    def receive_text(self) -> str:
        """A text with its length before it, as four hexadecimal digits."""
        digits = self.receive(4)
        try:
            return self.receive(int(digits, 16)).decode(errors="replace")
        except ValueError:
            raise Refused(f"sent {digits!r} as a length, which is not the adb server's protocol") from None

    @contextmanager
    def _timed(self) -> Iterator[None]:
        self._connection.settimeout(_remaining(self._deadline))
        try:
            yield
        except TimeoutError:
            raise Overdue from None
        except OSError as error:
            raise Gone from error


def ask_server(options: Options, request: str, deadline: float) -> str:
    """The answer to a request of the `host:` kind. Raises `TargetError`, `Overdue`, `Gone` and `Refused`."""
    with _connected(options, deadline) as stream:
        stream.ask(request.encode())
        return stream.receive_text()


@contextmanager
def device_service(options: Options, serial: str, service: bytes, deadline: float) -> Iterator[Stream]:
    """A service of a device's adb daemon. Raises `TargetError`, `Overdue`, `Gone` and `Refused`."""
    with _connected(options, deadline) as stream:
        stream.ask(b"host:transport:" + serial.encode())
        stream.ask(service)
        yield stream


def see_that_it_runs(options: Options, deadline: float) -> None:
    """Start the adb server when none answers on this machine. Raises `TargetError`."""
    host, port = options.address
    try:
        _dial(host, port, deadline).close()
        return
    except ConnectionRefusedError:
        if host not in _LOCAL:
            raise _unreachable(options, "Connection refused") from None
    except OSError as error:
        raise _unreachable(options, str(error.strerror or error)) from error
    try:
        subprocess.run(
            [options.client, "-P", str(port), "start-server"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=True,
            timeout=_remaining(deadline),
        )
    except (FileNotFoundError, PermissionError) as error:
        raise TargetError(
            f"no adb server runs at {host}:{port}, and no adb client to start one was found as {options.client!r}",
            "install it (Debian, Ubuntu: apt-get install adb; elsewhere Android's platform-tools), or name it with "
            "the target's adb.client",
        ) from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()[-500:]
        raise TargetError(
            f"'{options.client} start-server' failed (exit {error.returncode}): {said}"
        ) from error
    except (subprocess.TimeoutExpired, Overdue):
        raise TargetError(
            f"'{options.client} start-server' did not end within {options.connect_timeout_s:g} s"
        ) from None


@contextmanager
def _connected(options: Options, deadline: float) -> Iterator[Stream]:
    try:
        connection = _dial(*options.address, deadline)
    except TimeoutError:
        raise Overdue from None
    except OSError as error:
        raise _unreachable(options, str(error.strerror or error)) from error
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield Stream(connection, deadline)


def _dial(host: str, port: int, deadline: float) -> socket.socket:
    return socket.create_connection((host, port), timeout=_remaining(deadline))


def _unreachable(options: Options, reason: str) -> TargetError:
    host, port = options.address
    return TargetError(
        f"the adb server at {host}:{port} cannot be reached: {reason}",
        "does it run there (`adb -a nodaemon server` lets other machines in), and is the target's adb.server right?",
    )


def _remaining(deadline: float) -> float:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise Overdue
    return remaining

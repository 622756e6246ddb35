"""What carries the bytes to an SSH server: a TCP connection, a channel of a jump host's, or a ProxyCommand."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import paramiko

from targets.errors import NotReached, TargetError
from targets.ssh_failures import of_connecting
from targets.ssh_options import Destination

_END_DEADLINE_S = 5.0
_HERE = ("127.0.0.1", 0)


@dataclass(frozen=True)
class Stream:
    """A socket, or what behaves like one. `cut` ends it under its reader's feet, `said`: its program's complaints."""

    socket: Any
    cut: Callable[[], None]
    close: Callable[[], None]
    said: Callable[[], str] = str


def open_stream(destination: Destination, carrier: paramiko.Transport | None, deadline: float) -> Stream:
    """Reach a server: through `carrier` where there is one. Raises `TargetError` at the deadline at the latest."""
    if carrier is not None:
        return _through(carrier, destination, deadline)
    if destination.proxy_command is not None:
        return _program(destination.proxy_command, destination)
    connection = _connect(destination, deadline)

    def cut() -> None:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    return Stream(connection, cut, connection.close)


def _connect(destination: Destination, deadline: float) -> socket.socket:
    """Connect to the first of the host's addresses that answers, within `deadline` for all of them."""
    failure: OSError = TimeoutError()
    try:
        addresses = socket.getaddrinfo(destination.host, destination.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NotReached(
            f"the name {destination.host} could not be resolved",
            "is it spelled right, and is the device on this network? An alias needs its Host in ssh_config",
        ) from error
    for waiting, (family, kind, protocol, _, address) in zip(
        range(len(addresses), 0, -1), addresses, strict=True
    ):
        connection = socket.socket(family, kind, protocol)
        try:
            # An address that swallows packets, often the IPv6 one, must leave time for the others.
            connection.settimeout(max(0.01, (deadline - time.monotonic()) / waiting))
            connection.connect(address)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                lost_ms = 3 * destination.keepalive_s * 1000
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, lost_ms)
            return connection
        except OSError as error:
            connection.close()
            failure = error
    raise of_connecting(failure, destination) from failure


def _through(carrier: paramiko.Transport, destination: Destination, deadline: float) -> Stream:
    """A channel that the jump host connects to the server; the jump host resolves its name."""
    try:
        channel = carrier.open_channel(
            "direct-tcpip",
            (destination.host, destination.port),
            _HERE,
            timeout=max(0.01, deadline - time.monotonic()),
        )
    except paramiko.ChannelException as error:
        raise NotReached(
            f"the jump host could not reach {destination.host} port {destination.port}: {error.text}",
            "is the device on, does the jump host know that name, and does its server allow forwarding?",
        ) from error
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise of_connecting(TimeoutError(), destination) from error
    return Stream(channel, channel.close, channel.close)


def _program(argv: tuple[str, ...], destination: Destination) -> Stream:
    """A ProxyCommand, run without a shell, and without a terminal to ask on."""
    ours, its = socket.socketpair()
    complaints = tempfile.TemporaryFile()  # noqa: SIM115
    try:
        process = subprocess.Popen(
            argv, stdin=its.fileno(), stdout=its.fileno(), stderr=complaints, start_new_session=True
        )
    except OSError as error:
        ours.close()
        complaints.close()
        raise TargetError(
            f"the ProxyCommand of {destination.host} could not be started: {argv[0]}: {error.strerror}",
            "correct it in ssh_config",
        ) from error
    finally:
        its.close()

    def cut() -> None:
        with suppress(OSError):
            ours.shutdown(socket.SHUT_RDWR)

    def close() -> None:
        ours.close()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(_END_DEADLINE_S)
        complaints.close()

    def said() -> str:
        complaints.seek(0)
        return complaints.read()[-1000:].decode(errors="replace").strip()

    return Stream(ours, cut, close, said)

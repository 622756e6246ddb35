"""Logging in to an SSH server: reach it, recognise it, be let in; every way to fail is a sentence of its own.

Host keys are always checked, those of jump hosts as well. An unknown one is shown with the line that accepts it, a
changed one is refused.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import paramiko

from targets import ssh_failures
from targets.errors import TargetError
from targets.host_keys import Known, PublicKey, UnknownHostKey, check, known_keys, parse_public_key
from targets.ssh_options import Destination, Options, route
from targets.ssh_stream import Stream, open_stream
from targets.user_keys import candidates

__all__ = ["Login", "Options", "alarm", "host_key_of", "log_in"]

_END_DEADLINE_S = 5.0
_LEAST_WAIT_S = 0.01


class Login:
    """A connection, and those to the jump hosts that carry it. `device` is its user and host, for messages."""

    def __init__(self) -> None:
        self._open: list[tuple[paramiko.Transport, Stream]] = []
        self.device = ""

    @property
    def transport(self) -> paramiko.Transport:
        """The connection to the server that was reached last: the device, once we are there."""
        return self._open[-1][0]

    @property
    def carrier(self) -> paramiko.Transport | None:
        """What the next connection goes through; None for the first."""
        return self._open[-1][0] if self._open else None

    def add(self, transport: paramiko.Transport, stream: Stream, device: str) -> None:
        """Take over a connection; it ends with the others."""
        self._open.append((transport, stream))
        self.device = device

    def close(self) -> None:
        """End the connections and see their threads end, which paramiko does not wait for."""
        while self._open:
            transport, stream = self._open.pop()
            transport.close()
            stream.close()
            if transport.is_alive():
                transport.join(_END_DEADLINE_S)


def log_in(options: Options) -> Login:
    """A connection that is logged in, through all its jump hosts, or `TargetError`."""
    login = Login()
    try:
        for destination in route(options):
            _enter(login, destination)
    except BaseException:
        login.close()
        raise
    return login


def host_key_of(options: Options) -> tuple[PublicKey, bool]:
    """The key that the device shows, and whether it was known; the device is told nothing, not even a user.

    Raises `TargetError` for a key that has changed, and when the way to the device cannot be gone.
    """
    *before, device = route(options)
    login = Login()
    try:
        for destination in before:
            _enter(login, destination)
        return _meet(login, device, time.monotonic() + device.connect_timeout_s), True
    except UnknownHostKey as error:
        if error.name != device.known_as:
            raise
        return error.key, False
    finally:
        login.close()


def _enter(login: Login, destination: Destination) -> None:
    deadline = time.monotonic() + destination.connect_timeout_s
    _meet(login, destination, deadline)
    _authenticate(login.transport, destination, deadline)
    login.transport.set_keepalive(destination.keepalive_s)


def _meet(login: Login, destination: Destination, deadline: float) -> PublicKey:
    """Reach a server, exchange keys with it, and see that it is who it should be. Returns the key it showed."""
    _silence_paramiko()
    known, carrier = _known(destination), login.carrier
    stream = open_stream(destination, carrier, deadline)
    transport = paramiko.Transport(stream.socket)
    login.add(transport, stream, destination.name)
    transport.banner_timeout = transport.handshake_timeout = destination.connect_timeout_s
    transport.get_security_options().key_types = known.algorithms()
    # paramiko's own timeouts start anew for the banner and the key exchange.
    with alarm(deadline - time.monotonic(), stream.cut) as rang:
        try:
            transport.start_client()
            key = transport.get_remote_server_key()
        except (paramiko.SSHException, OSError, EOFError) as error:
            failure: BaseException = TimeoutError() if rang.is_set() else error
            raise ssh_failures.of_handshake(
                failure,
                destination,
                stream.said(),
                lambda: open_stream(destination, carrier, time.monotonic() + _END_DEADLINE_S),
            ) from error
    certificate = key.public_blob
    shown = (
        PublicKey(certificate.key_type, certificate.key_blob)
        if certificate
        else PublicKey(key.get_name(), key.asbytes())
    )
    pinned = destination.host_key is not None
    check(
        shown,
        known,
        destination.known_as,
        destination.identity,
        None if pinned else destination.known_hosts[0],
    )
    return shown


def _known(destination: Destination) -> Known:
    if destination.host_key is not None:
        return Known([parse_public_key(destination.host_key)])
    return known_keys(destination.known_hosts, destination.known_as, destination.identity)


def _authenticate(transport: paramiko.Transport, destination: Destination, deadline: float) -> None:
    """Try one key after another. The time that somebody needs for a passphrase does not count."""
    refusals: list[paramiko.SSHException] = []
    unusable: list[TargetError] = []
    with closing(paramiko.Agent()) as agent:
        for candidate in candidates(destination, agent):
            asked = time.monotonic()
            try:
                key = candidate.load()
            except TargetError as error:
                if not destination.may_be_missing:
                    raise
                unusable.append(error)
                continue
            deadline += time.monotonic() - asked
            transport.auth_timeout = max(_LEAST_WAIT_S, deadline - time.monotonic())
            try:
                if not (further := transport.auth_publickey(destination.user, key)):
                    return
                refusals.append(paramiko.BadAuthenticationType("more is asked for", further))
            except (paramiko.SSHException, EOFError, OSError) as error:
                refusals.append(
                    error if isinstance(error, paramiko.SSHException) else paramiko.SSHException(str(error))
                )
            if not transport.is_active() or time.monotonic() >= deadline:
                break
    late, hung_up = time.monotonic() >= deadline, not transport.is_active()
    raise ssh_failures.of_login(refusals, unusable, destination, late, hung_up)


@contextmanager
def alarm(seconds: float, action: Callable[[], None]) -> Iterator[threading.Event]:
    """Call `action` from another thread unless the block ends within `seconds`; the event tells."""
    rang = threading.Event()

    def ring() -> None:
        rang.set()
        action()

    timer = threading.Timer(max(0.0, seconds), ring)
    timer.start()
    try:
        yield rang
    finally:
        timer.cancel()
        timer.join()


def _silence_paramiko() -> None:
    """Paramiko logs tracebacks of errors that it raises, too; whoever wants them sets the logger's level."""
    logger = logging.getLogger("paramiko")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)

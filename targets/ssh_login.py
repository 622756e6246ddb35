"""Logging in to an SSH server: reach it, recognise it, be let in; every way to fail is a sentence of its own.

Host keys are always checked. An unknown one is shown with the line that accepts it, a changed one is refused.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import paramiko
from pydantic import BaseModel, ConfigDict, Field, field_validator

from targets.errors import TargetError
from targets.places import expand

_END_DEADLINE_S = 5.0


class Options(BaseModel):
    """How to reach and recognise a device. Paths may start with `~` and contain `${EDGEPIPE_HOME}`.

    Without `key_file` the SSH agent's keys and ~/.ssh/id_* are tried. `host_key` ("ssh-ed25519 AAAA...") pins
    the device's key; without it `known_hosts` must hold it. Connecting, login included, takes at most
    `connect_timeout_s`; a network that is silent for three times `keepalive_s` is lost.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(min_length=1)
    port: int = Field(default=22, ge=1, le=65535)
    user: str = Field(min_length=1)
    key_file: str | None = None
    known_hosts: str = "~/.ssh/known_hosts"
    host_key: str | None = None
    connect_timeout_s: float = Field(default=10, gt=0, lt=15)
    keepalive_s: int = Field(default=15, ge=1)

    @field_validator("host_key")
    @classmethod
    def _check_host_key(cls, value: str | None) -> str | None:
        if value is not None:
            _parse_host_key("device", value)
        return value

    @property
    def known_as(self) -> str:
        """The device's name in a known_hosts file."""
        return self.host if self.port == 22 else f"[{self.host}]:{self.port}"


def log_in(options: Options) -> paramiko.SSHClient:
    """A connection that is logged in, or `TargetError`."""
    _silence_paramiko()
    key = _load_key(expand(options.key_file)) if options.key_file else None
    client = paramiko.SSHClient()
    _load_host_keys(client, options)
    client.set_missing_host_key_policy(_RefuseUnknown(options))
    deadline = time.monotonic() + options.connect_timeout_s
    connection = _open_socket(options, deadline)

    def give_up() -> None:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    # paramiko's own timeouts start anew for the banner, the key exchange and each login attempt.
    with alarm(deadline - time.monotonic(), give_up) as rang:
        try:
            client.connect(
                options.host,
                options.port,
                options.user,
                pkey=key,
                sock=connection,
                allow_agent=key is None,
                look_for_keys=key is None,
                banner_timeout=options.connect_timeout_s,
                auth_timeout=options.connect_timeout_s,
            )
        except BaseException as error:
            hang_up(client)
            connection.close()
            if isinstance(error, (paramiko.SSHException, OSError, EOFError)):
                _explain(TimeoutError() if rang.is_set() else error, options)
            raise
    return client


def hang_up(client: paramiko.SSHClient) -> None:
    """Close the connection and see its thread end, which paramiko does not wait for."""
    transport = client.get_transport()
    client.close()
    if transport is not None and transport.is_alive():
        transport.join(_END_DEADLINE_S)


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


class _RefuseUnknown(paramiko.MissingHostKeyPolicy):
    def __init__(self, options: Options) -> None:
        self._options = options

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> NoReturn:
        options, public = self._options, f"{key.get_name()} {key.get_base64()}"
        raise TargetError(
            f"the host key of {options.known_as} is unknown: {key.fingerprint}",
            "compare that fingerprint on the device (ssh-keygen -lf /etc/ssh/ssh_host_*.pub); "
            f"if it is the same, add to {expand(options.known_hosts)}:\n{options.known_as} {public}\n"
            f"or to the target's ssh section:\nhost_key: {public}",
        )


def _silence_paramiko() -> None:
    """Paramiko logs tracebacks of errors that it raises, too; whoever wants them sets the logger's level."""
    logger = logging.getLogger("paramiko")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)


def _load_key(path: Path) -> paramiko.PKey:
    try:
        return paramiko.PKey.from_path(path)
    except OSError as error:
        raise TargetError(
            f"the key file {path} cannot be read: {error.strerror}",
            "correct key_file in the target's ssh section",
        ) from error
    except (TypeError, paramiko.PasswordRequiredException) as error:
        raise TargetError(
            f"the key file {path} needs a passphrase",
            f"hand it to the SSH agent (ssh-add {path}) and leave key_file out of the target's ssh section",
        ) from error
    except Exception as error:  # from_path lets through whatever its parsers raise
        raise TargetError(
            f"the key file {path} holds no usable private key",
            "expected an ed25519, ecdsa or rsa key in OpenSSH or PEM format; ssh-keygen -t ed25519 makes one",
        ) from error


def _parse_host_key(name: str, text: str) -> paramiko.hostkeys.HostKeyEntry:
    try:
        entry = paramiko.hostkeys.HostKeyEntry.from_line(f"{name} {text}")
    except (paramiko.hostkeys.InvalidHostKey, paramiko.SSHException):
        entry = None
    if entry is None or entry.key is None:
        raise ValueError(f"expected a public host key like 'ssh-ed25519 AAAA...'. Received: {text!r}")
    return entry


def _load_host_keys(client: paramiko.SSHClient, options: Options) -> None:
    if options.host_key is not None:
        key = _parse_host_key(options.known_as, options.host_key).key
        assert key is not None
        client.get_host_keys().add(options.known_as, key.get_name(), key)
        return
    path = expand(options.known_hosts)
    try:
        if path.exists():
            client.load_system_host_keys(str(path))
    except (OSError, ValueError, paramiko.hostkeys.InvalidHostKey) as error:
        raise TargetError(f"{path} cannot be read as a known_hosts file: {error}") from error


def _open_socket(options: Options, deadline: float) -> socket.socket:
    """Connect to the first of the host's addresses that answers, within `deadline` for all of them."""
    failure: OSError = TimeoutError()
    try:
        addresses = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise TargetError(
            f"the name {options.host} could not be resolved",
            "is it spelled right, and is the device on this network? (aliases in ~/.ssh/config are not read)",
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
                lost_ms = 3 * options.keepalive_s * 1000
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, lost_ms)
            return connection
        except OSError as error:
            connection.close()
            failure = error
    _explain(failure, options)


def _explain(error: BaseException, options: Options) -> NoReturn:
    where = f"{options.host} port {options.port}"
    if isinstance(error, TimeoutError):
        message = f"{where} did not answer within {options.connect_timeout_s:g} s"
        remedy = "is the device switched on and on this network? connect_timeout_s allows it more time"
    elif isinstance(error, ConnectionRefusedError):
        message = f"{where} refused the connection"
        remedy = "is the device's SSH server running, and on that port?"
    elif isinstance(error, paramiko.BadHostKeyException):
        forget = (
            "correct host_key in the target's ssh section"
            if options.host_key
            else f"forget the old key: ssh-keygen -R '{options.known_as}' -f {expand(options.known_hosts)}"
        )
        message = (
            f"the host key of {options.known_as} has changed: expected {error.expected_key.fingerprint}, "
            f"received {error.key.fingerprint}"
        )
        remedy = (
            "another machine may be answering. Only if the device was set up anew and itself shows that "
            f"fingerprint, {forget}"
        )
    elif isinstance(error, paramiko.AuthenticationException) or "No authentication methods" in str(error):
        key = expand(options.key_file) if options.key_file else None
        keys = f"the key {key}" if key else "any key of the SSH agent or ~/.ssh/id_*"
        message = f"{where} did not let {options.user} in with {keys}"
        identity = f"-i {key} " if key else ""
        remedy = f"is the user right? ssh-copy-id {identity}-p {options.port} {options.user}@{options.host}"
    elif isinstance(error, (paramiko.SSHException, EOFError)):
        message = f"{where} broke off the SSH handshake: {error or 'connection closed'}"
        remedy = "is it an SSH server, and one of the last ten years?"
    else:
        message = f"{where} cannot be reached: {getattr(error, 'strerror', None) or error}"
        remedy = "is the device switched on and on this network?"
    raise TargetError(message, remedy) from error

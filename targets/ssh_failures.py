"""What went wrong on the way into a device, as a sentence and a remedy."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import paramiko
from paramiko.ssh_exception import IncompatiblePeer

from targets.errors import NotReached, TargetError
from targets.host_certificates import CERTIFICATE
from targets.ssh_options import Destination

if TYPE_CHECKING:
    from targets.ssh_stream import Stream

_OFFER_DEADLINE_S = 5.0
_LONGEST_BANNER = 8192
_LONGEST_PACKET = 1 << 16
_CHUNK = 1 << 14


def of_connecting(error: OSError, destination: Destination) -> NotReached:
    """A connection that was not made, or not in time."""
    where = f"{destination.host} port {destination.port}"
    if isinstance(error, TimeoutError):
        return NotReached(
            f"{where} did not answer within {destination.connect_timeout_s:g} s",
            "is the device switched on and on this network? connect_timeout_s allows it more time",
        )
    if isinstance(error, ConnectionRefusedError):
        return NotReached(
            f"{where} refused the connection", "is the device's SSH server running, and on that port?"
        )
    return NotReached(
        f"{where} cannot be reached: {error.strerror or error}",
        "is the device switched on and on this network?",
    )


def of_handshake(
    error: BaseException, destination: Destination, said: str, again: Callable[[], Stream]
) -> TargetError:
    """A server, or what is none, with which no keys could be exchanged.

    `said` is what its ProxyCommand complained; `again` opens another stream, to ask the server what it offers.
    """
    where = f"{destination.host} port {destination.port}"
    if isinstance(error, TimeoutError):
        return of_connecting(error, destination)
    if isinstance(error, IncompatiblePeer):
        return _incompatible(error, where, again)
    if said:
        return TargetError(
            f"the ProxyCommand of {destination.host} failed: {said}", "correct it in ssh_config"
        )
    return TargetError(
        f"{where} broke off the SSH handshake: {error or 'connection closed'}",
        "is it an SSH server, and one of the last ten years?",
    )


def _incompatible(error: IncompatiblePeer, where: str, again: Callable[[], Stream]) -> TargetError:
    """A server whose every method of some kind is one that is no longer safe, or not yet known here."""
    kinds = {"host key": "host keys", "kex": "key exchange", "cipher": "ciphers", "mac": "MACs"}
    kind = next((word for word in kinds if word in str(error)), "host key")
    try:
        stream = again()
        try:
            version, offer = read_offer(stream.socket)
        finally:
            stream.close()
    except (TargetError, OSError, EOFError, ValueError, paramiko.SSHException):
        version, offer = "it", {}
    offered = offer.get(kind, [])
    return TargetError(
        f"{where} is an SSH server that is too old: for its {kinds[kind]}, {version} offers "
        f"{', '.join(offered) or 'nothing that is still safe'}",
        _remedy(kind, offered),
    )


def _remedy(kind: str, offered: Sequence[str]) -> str:
    """What to do about it on the device."""
    if kind != "host key":
        return (
            "such methods are refused: bring its server up to date (OpenSSH 7.4, Dropbear 2020.79 or later)"
        )
    if any(CERTIFICATE in each for each in offered):
        return "it shows certificates of a kind that is not known here: give it an ed25519 host key as well"
    if "ssh-rsa" in offered:
        return (
            "such RSA signatures are SHA-1's: bring its server up to date (OpenSSH 7.2, Dropbear 2020.79 or later), "
            "or give it an ed25519 host key (ssh-keygen -A, dropbearkey -t ed25519)"
        )
    return "give it an ed25519 host key: ssh-keygen -A, or dropbearkey -t ed25519"


def read_offer(stream: Any) -> tuple[str, dict[str, list[str]]]:
    """A server's version and the methods that it offers (RFC 4253, sections 4.2 and 7.1), by kind."""
    stream.settimeout(_OFFER_DEADLINE_S)
    stream.send(b"SSH-2.0-edgepipe\r\n")
    received = b""
    while not (found := re.search(rb"^SSH-[\d.]+-([^\r\n]*)\r?\n", received, re.MULTILINE)):
        received = _more(stream, received, _LONGEST_BANNER)
    packet = received[found.end() :]
    while len(packet) < 4 or len(packet) < 4 + int.from_bytes(packet[:4]):
        packet = _more(stream, packet, _LONGEST_PACKET)
    message = paramiko.Message(packet[6 + 16 :])  # length, padding, kind of message, cookie
    names = [message.get_list() for _ in range(6)]
    return found[1].decode(errors="replace"), {
        "kex": names[0],
        "host key": names[1],
        "cipher": names[3],
        "mac": names[5],
    }


def _more(stream: Any, received: bytes, most: int) -> bytes:
    data = stream.recv(_CHUNK)
    if not data or len(received) > most:
        raise EOFError
    return received + bytes(data)


def of_login(
    refusals: Sequence[paramiko.SSHException],
    unusable: Sequence[TargetError],
    destination: Destination,
    late: bool,
    hung_up: bool,
) -> TargetError:
    """A server that let nobody in: what it said to each key, and the keys that could not be tried."""
    where = f"{destination.host} port {destination.port}"
    if late:
        return of_connecting(TimeoutError(), destination)
    files = ", ".join(map(str, destination.key_files))
    named = destination.only_these_keys or not destination.may_be_missing
    keys = f"the key {files}" if named else f"any key of the SSH agent or {files}"
    user = destination.user
    for refusal in refusals:
        if isinstance(refusal, paramiko.BadAuthenticationType):
            allowed = ", ".join(refusal.allowed_types)
            return TargetError(
                f"{where} does not let {user} in by a key alone: it asks for {allowed}",
                "edgepipe answers no questions: allow publickey in the server's settings, and put a key there with "
                f"ssh-copy-id -p {destination.port} {user}@{destination.host}",
            )
    identity = f"-i {files} " if named and len(destination.key_files) == 1 else ""
    remedy = f"is the user right? ssh-copy-id {identity}-p {destination.port} {user}@{destination.host}"
    if hung_up and len(refusals) > 1:
        remedy = f"it hung up after {len(refusals)} keys: name the right one with key_file. {remedy}"
    if unusable:
        remedy = f"{remedy}. Not tried: " + "; ".join(f"{each.message} ({each.remedy})" for each in unusable)
    return TargetError(f"{where} did not let {user} in with {keys}", remedy)

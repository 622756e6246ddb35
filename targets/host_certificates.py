"""Host certificates of OpenSSH (its PROTOCOL.certkeys): paramiko negotiates them, and does not judge them. We do."""

from __future__ import annotations

from dataclasses import dataclass

import paramiko

from targets.errors import TargetError
from targets.ssh_config import matches

CERTIFICATE = "-cert-v01@openssh.com"
# How many numbers of the key itself follow the nonce.
_KEY_FIELDS = {"ssh-ed25519": 1, "ssh-rsa": 2}
_HOST = 2


@dataclass(frozen=True)
class Certificate:
    """A host certificate whose signature holds; key and authority as (kind, blob), times in seconds since 1970."""

    key: tuple[str, bytes]
    authority: tuple[str, bytes]
    kind: int
    principals: tuple[str, ...]
    valid_after: int
    valid_before: int
    critical: bytes

    def misfit(self, host: str, now: float) -> str:
        """Why it does not certify `host` now; empty when it does. One that names no host certifies none."""
        if self.kind != _HOST:
            return "it is a user's certificate"
        if not self.valid_after <= now < self.valid_before:
            return "it is not valid yet" if now < self.valid_after else "it has expired"
        if self.critical:
            return "it has critical options that are not known here"
        if not matches(list(self.principals), host):
            return f"it is for {', '.join(self.principals) or 'no host'}, not for {host}"
        return ""


def read_certificate(blob: bytes) -> Certificate:
    """Read a certificate and verify its authority's signature. Raises `TargetError` when it is damaged or forged."""
    message = paramiko.Message(blob)
    try:
        kind = message.get_text().removesuffix(CERTIFICATE)
        message.get_binary()  # the nonce
        numbers = [message.get_binary() for _ in range(_KEY_FIELDS.get(kind, 2))]
        message.get_int64()  # the serial number
        use = message.get_int()
        message.get_binary()  # the name of the certificate
        principals = _strings(message.get_binary())
        after, before = message.get_int64(), message.get_int64()
        critical = message.get_binary()
        message.get_binary()  # extensions
        message.get_binary()  # reserved
        authority = message.get_binary()
        signed = blob[: len(blob) - len(message.get_remainder())]
        signature = message.get_binary()
        signer = paramiko.Message(authority).get_text()
        key = paramiko.PKey.from_type_string(signer, authority)
        holds = key.verify_ssh_sig(signed, paramiko.Message(signature))
    except (paramiko.SSHException, paramiko.pkey.UnknownKeyType, ValueError, IndexError) as error:
        raise TargetError(f"the host certificate cannot be read: {error}") from error
    if not holds or CERTIFICATE in signer:
        raise TargetError("the host certificate is forged: its authority's signature does not hold")
    plain = paramiko.Message()
    plain.add_string(kind)
    for number in numbers:
        plain.add_string(number)
    return Certificate((kind, plain.asbytes()), (signer, authority), use, principals, after, before, critical)


def _strings(packed: bytes) -> tuple[str, ...]:
    message, found = paramiko.Message(packed), []
    while message.get_remainder():
        found.append(message.get_text())
    return tuple(found)

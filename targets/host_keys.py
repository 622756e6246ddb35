"""Is this the machine it says it is? Host keys, and what known_hosts files say of them (sshd(8), its last part)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from targets.errors import TargetError
from targets.host_certificates import CERTIFICATE, Certificate, read_certificate
from targets.ssh_config import matches

# The algorithms by which each type of key signs; SHA-1's "ssh-rsa" and DSA are nobody's proof any more.
ALGORITHMS = {
    "ssh-ed25519": ("ssh-ed25519",),
    "ecdsa-sha2-nistp256": ("ecdsa-sha2-nistp256",),
    "ecdsa-sha2-nistp384": ("ecdsa-sha2-nistp384",),
    "ecdsa-sha2-nistp521": ("ecdsa-sha2-nistp521",),
    "ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256"),
}


@dataclass(frozen=True)
class PublicKey:
    """A public key, or a certificate, as it travels; `kind` is its first field."""

    kind: str
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` writes it."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")

    @property
    def certified(self) -> bool:
        """Whether it is a certificate."""
        return self.kind.endswith(CERTIFICATE)

    @property
    def line(self) -> str:
        """`ssh-ed25519 AAAA...`"""
        return f"{self.kind} {base64.b64encode(self.blob).decode()}"


def parse_public_key(text: str) -> PublicKey:
    """The key of `ssh-ed25519 AAAA... [remark]`; raises `ValueError`."""
    kind, _, encoded = text.strip().partition(" ")
    try:
        blob = base64.b64decode(encoded.split()[0], validate=True)
    except (IndexError, binascii.Error):
        blob = b""
    # The first field of the key itself is its kind, behind its length.
    if kind not in ALGORITHMS or not blob.startswith(len(kind).to_bytes(4) + kind.encode()) or len(blob) < 40:
        raise ValueError(f"expected a public host key like 'ssh-ed25519 AAAA...'. Received: {text!r}")
    return PublicKey(kind, blob)


@dataclass
class Known:
    """What is known of a host: its keys, who may certify them, and which are revoked.

    `by_port` is false when all this is said of the host at its usual port: another server may answer at this one.
    """

    keys: list[PublicKey] = field(default_factory=list)
    authorities: list[PublicKey] = field(default_factory=list)
    revoked: list[PublicKey] = field(default_factory=list)
    by_port: bool = True

    def algorithms(self) -> list[str]:
        """All we accept, by preference: by a known authority, of a known key's type, the rest."""
        usual = [each for group in ALGORITHMS.values() for each in group]
        known = [each for key in self.keys for each in ALGORITHMS.get(key.kind, ())]
        certified = [f"{each}{CERTIFICATE}" for each in usual] if self.authorities else []
        return list(dict.fromkeys([*certified, *known, *usual]))


def known_keys(paths: Iterable[Path], name: str, host: str) -> Known:
    """What the files say of `name`, or, when they say nothing of it, of the host without its port.

    Raises `TargetError` when a file cannot be read; one that does not exist says nothing.
    """
    lines = [line for path in paths for line in _lines(path)]
    for asked in dict.fromkeys((name, host.lower())):
        found = Known(by_port=asked == name)
        places = {"": found.keys, "@cert-authority": found.authorities, "@revoked": found.revoked}
        for marker, names, key in lines:
            if marker in places and _names_match(names, asked):
                places[marker].append(key)
        if found.keys or found.authorities or found.revoked:
            break
    return found


def _lines(path: Path) -> list[tuple[str, str, PublicKey]]:
    """Marker, names and key of each line of a known_hosts file; kinds of keys that we do not know are no use."""
    try:
        content = path.read_text() if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or error
        raise TargetError(f"{path} cannot be read as a known_hosts file: {problem}") from error
    found = []
    for line in content.splitlines():
        marked = re.fullmatch(r"\s*(?:(@\S+)\s+)?([^#\s]\S*)\s+(\S+\s+\S+.*)", line)
        if marked:
            try:
                found.append((marked[1] or "", marked[2], parse_public_key(marked[3])))
            except ValueError:
                continue
    return found


def _names_match(names: str, asked: str) -> bool:
    if not names.startswith("|1|"):
        return matches(names.split(","), asked)
    try:
        salt, digest = (base64.b64decode(part, validate=True) for part in names[3:].split("|"))
    except ValueError:
        return False
    return hmac.compare_digest(hmac.digest(salt, asked.encode(), "sha1"), digest)


class UnknownHostKey(TargetError):
    """Nothing is known of the host `name`; `key` is what it showed."""

    def __init__(self, name: str, key: PublicKey, message: str, remedy: str) -> None:
        super().__init__(message, remedy)
        self.name = name
        self.key = key


def check(shown: PublicKey, known: Known, name: str, host: str, known_hosts: Path | None) -> None:
    """Return when `shown` is a key of the host's, or a certificate of a known authority for it.

    `name` is the host's in `known_hosts`, `host` what a certificate must bear; without `known_hosts` its key is pinned.
    Raises `UnknownHostKey` when nothing is known of it, `TargetError` for any other: changed, revoked, not certified.
    """
    certificate = read_certificate(shown.blob) if shown.certified else None
    presented = [
        shown,
        *([PublicKey(*each) for each in (certificate.key, certificate.authority)] if certificate else []),
    ]
    if any(key in known.revoked for key in presented):
        raise TargetError(
            f"the host key of {name} is revoked: {shown.fingerprint}",
            "known_hosts says so (@revoked): find out why, and give the device a new key",
        )
    if certificate:
        _check_certificate(certificate, known, name, host)
    elif shown in known.keys:
        return
    elif known.keys and known.by_port:
        raise _changed(shown, known, name, known_hosts)
    else:
        raise _unknown(shown, known, name, known_hosts)


def _check_certificate(certificate: Certificate, known: Known, name: str, host: str) -> None:
    authority = PublicKey(*certificate.authority)
    if PublicKey(*certificate.key) in known.keys:
        return
    if authority not in known.authorities:
        raise TargetError(
            f"{name} shows a certificate of an unknown authority: {authority.fingerprint}",
            f"if that is yours, add to known_hosts: @cert-authority {name} {authority.line}",
        )
    if misfit := certificate.misfit(host, time.time()):
        raise TargetError(f"the host certificate of {name} is not valid: {misfit}", "have it issued anew")


def _changed(shown: PublicKey, known: Known, name: str, known_hosts: Path | None) -> TargetError:
    same = [key for key in known.keys if key.kind == shown.kind] or known.keys
    forget = (
        "correct host_key in the target's ssh section"
        if known_hosts is None
        else f"forget the old key: ssh-keygen -R '{name}' -f {known_hosts}"
    )
    return TargetError(
        f"the host key of {name} has changed: expected {' or '.join(key.fingerprint for key in same)}, "
        f"received {shown.fingerprint} ({shown.kind})",
        "another machine may be answering. Only if the device was set up anew and itself shows that "
        f"fingerprint, {forget}",
    )


def _unknown(shown: PublicKey, known: Known, name: str, known_hosts: Path | None) -> UnknownHostKey:
    expected = "; a certificate was expected of it, and it showed none" if known.authorities else ""
    return UnknownHostKey(
        name,
        shown,
        f"the host key of {name} is unknown: {shown.fingerprint}{expected}",
        "compare that fingerprint on the device (ssh-keygen -lf /etc/ssh/ssh_host_*.pub); "
        f"if it is the same, add to {known_hosts}:\n{name} {shown.line}\n"
        f"or to the target's ssh section:\nhost_key: {shown.line}",
    )

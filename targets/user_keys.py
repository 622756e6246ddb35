"""Who we are to a server: keys of the SSH agent and of files. A passphrase is asked for once, on a terminal only."""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import paramiko

from targets import questions
from targets.errors import TargetError
from targets.ssh_options import Destination

_MOST_PASSPHRASES = 3
_OPENSSH_MAGIC = b"openssh-key-v1\0"
# Keys that were unlocked, for as long as this process lives: nobody is asked twice, nothing is written down.
_unlocked: dict[Path, paramiko.PKey] = {}
_left_locked: set[Path] = set()


@dataclass(frozen=True)
class Candidate:
    """A key that may be tried; `load` asks for the passphrase where one is needed."""

    name: str
    load: Callable[[], paramiko.PKey]


def candidates(destination: Destination, agent: paramiko.Agent) -> Iterator[Candidate]:
    """The keys to try, as OpenSSH does: the agent's that were asked for, its others, then files that it does not hold.

    Raises `TargetError` for a file that the target names and that cannot be used.
    """
    try:
        held = {key.asbytes(): key for key in agent.get_keys()}
    except (paramiko.SSHException, OSError):
        held = {}  # an agent that does not answer holds none
    files = [path for path in destination.key_files if path.exists() or not destination.may_be_missing]
    asked = {path: held.pop(blob) for path in files if (blob := _public_half(path)) in held}
    for path, key in asked.items():
        yield Candidate(f"the agent's key of {path}", lambda key=key: key)  # type: ignore[misc]
    if not destination.only_these_keys:
        for key in held.values():
            yield Candidate(f"the agent's {key.comment or key.get_name()}", lambda key=key: key)  # type: ignore[misc]
    for path in files:
        if path not in asked:
            yield Candidate(str(path), lambda path=path: load_key(path))  # type: ignore[misc]


def _public_half(path: Path) -> bytes:
    """The public key of a private key file, which is in it, or beside it, in the clear; empty when it cannot be had."""
    try:
        lines = path.read_text().split("-----")
        if "OPENSSH" in lines[1]:
            message = paramiko.Message(base64.b64decode(lines[2]))
            message.get_bytes(len(_OPENSSH_MAGIC))
            for _ in ("cipher", "key derivation", "its options"):
                message.get_binary()
            message.get_int()
            return message.get_binary()
        words = path.with_name(f"{path.name}.pub").read_text().split()
        return base64.b64decode(words[1])
    except (OSError, ValueError, IndexError, paramiko.SSHException):
        return b""


def load_key(path: Path) -> paramiko.PKey:
    """The private key in a file, unlocked where it has a passphrase. Raises `TargetError`."""
    if path in _unlocked:
        return _unlocked[path]
    key = _read(path, None)
    if key is None:
        key = _unlocked[path] = _unlock(path)
    return key


def passphrases_were_missing() -> bool:
    """Whether a key stayed locked because there was nobody to ask: one more try, where somebody is, may succeed."""
    return bool(_left_locked - _unlocked.keys())


def _unlock(path: Path) -> paramiko.PKey:
    if not questions.somebody_is_there():
        _left_locked.add(path)
        raise TargetError(
            f"the key file {path} needs a passphrase, and there is no terminal to ask on",
            f"hand the key to the SSH agent (ssh-add {path}), or use one without a passphrase here",
        )
    for _ in range(_MOST_PASSPHRASES):
        passphrase = questions.ask(f"passphrase of {path}: ", secret=True)
        if passphrase and (key := _read(path, passphrase)) is not None:
            return key
        print("that is not its passphrase", file=sys.stderr)
    raise TargetError(
        f"the key file {path} stays locked: that was not its passphrase", "run again, or use ssh-add"
    )


def _read(path: Path, passphrase: str | None) -> paramiko.PKey | None:
    """The key; None when the passphrase is missing or wrong."""
    try:
        return paramiko.PKey.from_path(path, passphrase and passphrase.encode())  # type: ignore[arg-type]
    except OSError as error:
        raise TargetError(
            f"the key file {path} cannot be read: {error.strerror}",
            "correct key_file in the target's ssh section, or IdentityFile in ssh_config",
        ) from error
    except (TypeError, paramiko.PasswordRequiredException):
        return None
    except Exception as error:  # from_path lets through whatever its parsers raise
        if passphrase is not None and isinstance(error, ValueError):
            return None
        raise TargetError(
            f"the key file {path} holds no usable private key",
            "expected an ed25519, ecdsa or rsa key in OpenSSH or PEM format; ssh-keygen -t ed25519 makes one",
        ) from error

"""SSH keys of emulated devices."""

from __future__ import annotations

from pathlib import Path

from targets import debian


def make_key(path: Path, *, comment: str) -> None:
    """An Ed25519 key without a passphrase at `path`, its public half beside it."""
    debian.call(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)], "make an SSH key"
    )

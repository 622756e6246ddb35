"""Sending a file on from where an earlier sending broke off."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

CHUNK = 1 << 18
BLOCK = 1 << 20


def offset_to_go_on_from(path: Path, part: Mapping[str, Any]) -> int:
    """How many of a file's first bytes the device has, as far as the hashes of what it has prove it.

    `part` holds its `bytes` and, as `marks`, the SHA-256 of the first 1, 2, ... MiB and of all of it. What a power
    cut left of the last MiB may be anything: then the MiB before it counts.
    """
    digest, agreed, left = hashlib.sha256(), 0, min(int(part["bytes"]), path.stat().st_size)
    with path.open("rb") as stream:
        for mark in part["marks"]:
            block = stream.read(min(BLOCK, left))
            digest.update(block)
            if not block or digest.hexdigest() != mark:
                break
            agreed, left = agreed + len(block), left - len(block)
    return agreed


def chunks(path: Path, offset: int) -> Iterator[bytes]:
    """The bytes of a file from `offset` on."""
    with path.open("rb") as stream:
        stream.seek(offset)
        while chunk := stream.read(CHUNK):
            yield chunk


def unpacked_size(archive: Path) -> int:
    """What the files in a tar.gz take when they are unpacked, each in blocks of 4 KiB."""
    with tarfile.open(archive) as tar:
        return sum(-(-member.size // 4096) * 4096 for member in tar)

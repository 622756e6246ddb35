"""The device agent as one file: a zip that `python3` runs."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable

PACKAGE = "device_agents"
EARLIEST = (1980, 1, 1, 0, 0, 0)


def build_agent() -> tuple[bytes, str]:
    """The archive and its SHA-256 in hexadecimal; the same sources give the same bytes everywhere.

    The package lies in the archive whole, and its `__main__.py` once more on top, where Python looks for it.
    Stored, not compressed: releases of zlib compress differently, and the digest is the agent's name.
    """
    sources = dict(_sources(files(PACKAGE), PACKAGE))
    sources["__main__.py"] = sources[f"{PACKAGE}/__main__.py"]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(sources):
            entry = zipfile.ZipInfo(name, EARLIEST)
            entry.create_system = 3  # Unix, whichever system packs
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, sources[name])
    return packed.getvalue(), hashlib.sha256(packed.getvalue()).hexdigest()


def _sources(folder: Traversable, path: str) -> Iterator[tuple[str, bytes]]:
    for item in folder.iterdir():
        if item.is_dir():
            yield from _sources(item, f"{path}/{item.name}")
        elif item.name.endswith(".py"):
            yield f"{path}/{item.name}", item.read_bytes()

"""Files on the device: their digests, and writing them so that nobody ever sees half of one."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from typing import BinaryIO

from device_agents.channel import Emit
from device_agents.job import Job
from device_agents.tidying import touch


def sha256_of(path: str) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def tree_digest(folder: str) -> str:
    """The SHA-256 over the lines `<posix relative path>\\0<sha256>\\n` of the regular files in a folder,
    sorted by path. `__pycache__` folders do not count (Python fills them as it runs), nor do links.
    """
    digest = hashlib.sha256()
    for relative, path in sorted(_regular_files(folder)):
        digest.update(f"{relative}\0{sha256_of(path)}\n".encode())
    return digest.hexdigest()


def _regular_files(folder: str) -> Iterator[tuple[str, str]]:
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            path = os.path.join(root, name)
            if os.path.isfile(path) and not os.path.islink(path):
                yield os.path.relpath(path, folder).replace(os.sep, "/"), path


@contextlib.contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """Write a file under a temporary name; it takes its own name, on disk for good, when the block ends
    well.
    """
    partial = f"{path}.partial"
    try:
        with open(partial, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
        sync_folder(os.path.dirname(os.path.abspath(path)))
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)


def sync_folder(folder: str) -> None:
    """Make the names in a folder last: a rename is on disk only when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hash_files(job: Job, emit: Emit) -> None:
    """`hash`: digest and size of each path; null for one that is no file."""
    found = {}
    for path in job.texts("paths"):
        here = os.path.expanduser(path)
        is_file = os.path.isfile(here)
        touch(here)
        found[path] = {"sha256": sha256_of(here), "bytes": os.path.getsize(here)} if is_file else None
    emit({"event": "hashes", "files": found})


def verify(job: Job, emit: Emit) -> None:
    """`verify`: whether a folder still has the digest it was unpacked with."""
    folder = job.path("folder")
    actual = tree_digest(folder) if os.path.isdir(folder) else None
    touch(folder)
    emit({"event": "verified", "ok": actual == job.text("digest"), "digest": actual})


def remove(job: Job, emit: Emit) -> None:
    """`remove`: delete files; one that is not there is as good as deleted."""
    paths = [os.path.expanduser(path) for path in job.texts("paths")]
    removed = [path for path in paths if os.path.isfile(path)]
    for path in removed:
        os.unlink(path)
    emit({"event": "removed", "paths": removed})

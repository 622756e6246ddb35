"""Unpack an archive into a folder that appears whole or not at all."""

from __future__ import annotations

import contextlib
import gzip
import os
import posixpath
import shutil
import tarfile
import zlib
from collections.abc import Iterator

from device_agents import lock
from device_agents.channel import Emit
from device_agents.failure import Failure
from device_agents.files import sync_folder, tree_digest
from device_agents.job import Job


def unpack(job: Job, emit: Emit) -> None:
    """`unpack`: a tar.gz becomes the folder `into`, once its tree digest is the one promised.

    An archive that is damaged, unsafe or of another digest leaves whatever was in `into` as it was.
    """
    archive, into, digest = job.path("archive"), job.path("into").rstrip("/"), job.text("digest")
    with lock.of(job):
        archive = job.existing("archive")
        with _temporary_folder(f"{into}.partial") as fresh:
            _extract(archive, fresh)
            actual = tree_digest(fresh)
            if actual != digest:
                raise Failure(
                    "job",
                    f"expected {archive} to unpack to digest {digest}. Received: {actual}; send it again",
                )
            os.sync()
            _put_in_place(fresh, into)
        os.unlink(archive)
    emit({"event": "unpacked", "digest": actual})


@contextlib.contextmanager
def _temporary_folder(path: str) -> Iterator[str]:
    # One fixed name: the lock keeps it ours, and what a power cut left in it goes first.
    _remove(path)
    os.makedirs(path)
    try:
        yield path
    finally:
        _remove(path)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def _put_in_place(fresh: str, into: str) -> None:
    replaced = f"{into}.replaced"
    _remove(replaced)
    if os.path.lexists(into):
        os.rename(into, replaced)
    os.rename(fresh, into)
    sync_folder(os.path.dirname(os.path.abspath(into)))
    _remove(replaced)


def _extract(archive: str, into: str) -> None:
    try:
        with tarfile.open(archive, "r:gz") as tar:
            members = tar.getmembers()
            _check(members)
            if hasattr(tarfile, "data_filter"):
                tar.extraction_filter = tarfile.data_filter
            tar.extractall(into, members)
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise Failure("job", f"cannot unpack {archive}: {error}; send it again") from None
    for root, folders, names in os.walk(into):
        for name in folders + names:
            path = os.path.join(root, name)
            if os.path.islink(path) and not _inside(os.path.realpath(path), os.path.realpath(into)):
                raise _unsafe(os.path.relpath(path, into), "it links out of the folder")


def _check(members: list[tarfile.TarInfo]) -> None:
    """Python before 3.9.17 has no `data` filter: here too nothing may land, or point, outside."""
    links = {posixpath.normpath(member.name) for member in members if member.issym()}
    for member in members:
        name = posixpath.normpath(member.name)
        if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
            raise _unsafe(member.name, "it is a device or a pipe")
        if not _stays(member.name) or _parents(name) & links:
            raise _unsafe(member.name, "it would land outside the folder")
        if member.issym() and not _stays(posixpath.join(posixpath.dirname(name), member.linkname)):
            raise _unsafe(member.name, "it links out of the folder")
        target = posixpath.normpath(member.linkname)
        if member.islnk() and (not _stays(member.linkname) or (_parents(target) | {target}) & links):
            raise _unsafe(member.name, "it links out of the folder")
        member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        member.uid, member.gid, member.uname, member.gname = 0, 0, "", ""


def _stays(path: str) -> bool:
    normal = posixpath.normpath(path)
    return not posixpath.isabs(normal) and normal.split("/")[0] != ".."


def _parents(path: str) -> set[str]:
    pieces = path.split("/")
    return {"/".join(pieces[:depth]) for depth in range(1, len(pieces))}


def _inside(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder


def _unsafe(name: str, reason: str) -> Failure:
    return Failure("job", f"refused to unpack {name!r}: {reason}")

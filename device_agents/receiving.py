"""Files that come to the device: what of them is there already, and the rest, straight into the agent's hands.

A file arrives under `<its name>.part`. That name is decided by the content, so that any host goes on where any other
broke off; whoever writes to it holds its lock, which the kernel takes back when the writer ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from typing import Any

from device_agents import channel
from device_agents.channel import Emit
from device_agents.failure import Failure
from device_agents.files import sha256_of, sync_folder, tree_digest
from device_agents.job import Job
from device_agents.tidying import free_bytes, touch

BLOCK = 1 << 20


def stock(job: Job, emit: Emit) -> None:
    """`stock`: which of the files and folders are on the device whole, by their hash; and the room that is left.

    Of a file that came in part: its size, and the SHA-256 of its first 1, 2, ... MiB and of all of it.
    """
    files = {}
    for wanted in job.parts("files"):
        path = wanted.path("path")
        whole = os.path.isfile(path) and sha256_of(path) == wanted.text("sha256")
        touch(path)
        files[wanted.text("path")] = {"whole": whole, **({} if whole else _part(f"{path}.part"))}
    folders = {}
    for wanted in job.parts("folders"):
        folder = wanted.path("path")
        folders[wanted.text("path")] = os.path.isdir(folder) and tree_digest(folder) == wanted.text("digest")
        touch(folder)
    emit({"event": "stock", "files": files, "folders": folders, "free": free_bytes(job.path("workdir"))})


def _part(path: str) -> dict[str, Any]:
    digest, marks, size = hashlib.sha256(), [], 0
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
            size += len(block)
            marks.append(digest.hexdigest())
    return {"bytes": size, "marks": marks}


def receive(job: Job, emit: Emit) -> None:
    """`receive`: what follows the job's line, from byte `offset` of the file on, completes it.

    Nothing takes the file's name until all of it has the SHA-256 promised. What has arrived when the way breaks
    stays. A part that turns out to be another file's is removed.
    """
    path, size, offset = job.path("path"), job.integer("bytes", 0), job.integer("offset", 0)
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    part = f"{path}.part"
    with _sole_writer(part) as descriptor:
        if os.fstat(descriptor).st_size < offset:
            raise Failure("job", f"expected {part} to hold {offset} bytes; run again")
        os.ftruncate(descriptor, offset)
        digest = hashlib.sha256()
        while block := os.read(descriptor, BLOCK):
            digest.update(block)
        for block in channel.payload(size - offset):
            digest.update(block)
            _write(descriptor, block)
        if digest.hexdigest() != job.text("sha256"):
            os.unlink(part)
            raise Failure("damaged", f"{path} arrived damaged: its SHA-256 is {digest.hexdigest()}")
        os.fsync(descriptor)
        os.replace(part, path)
        sync_folder(os.path.dirname(os.path.abspath(path)))
    emit({"event": "received", "path": path})


@contextlib.contextmanager
def _sole_writer(part: str) -> Iterator[int]:
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Another host may have completed and renamed it between the two calls above.
        if not os.path.exists(part) or not os.path.samestat(os.fstat(descriptor), os.stat(part)):
            raise BlockingIOError
        yield descriptor
    except BlockingIOError:
        raise Failure("locked", f"another host is sending {part} at this moment") from None
    finally:
        os.close(descriptor)


def _write(descriptor: int, block: bytes) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[os.write(descriptor, rest) :]

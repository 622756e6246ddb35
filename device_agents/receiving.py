"""Files that come to the device: what of them is there already, and the rest, straight into the agent's hands.

A file arrives under `<its name>.part`. That name is decided by the content, so that any host goes on where any other
broke off; whoever writes to it holds its lock, which the kernel takes back when the writer ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from device_agents import channel
from device_agents.channel import Emit
from device_agents.failure import Failure
from device_agents.files import sha256_of, sync_folder
from device_agents.job import Job
from device_agents.tidying import free_bytes, make_room, touch

BLOCK = 1 << 20


def stock(job: Job, emit: Emit) -> None:
    """`stock`: which of the files are on the device whole, by their hash; and whether the others find room.

    Of a file that came in part: its size, and the SHA-256 of its first 1, 2, ... MiB and of all of it. Room is made
    by the rules of `tidying.make_room`: for what is missing, `extra_bytes` and `margin_bytes`.
    """
    touch(os.path.abspath(sys.argv[0]))
    files, keep, incoming = {}, {os.path.abspath(sys.argv[0])}, 0
    for wanted in job.parts("files"):
        path = wanted.path("path")
        keep |= {path, f"{path}.part"}
        whole = os.path.isfile(path) and sha256_of(path) == wanted.text("sha256")
        touch(path)
        found = {"whole": whole, **({} if whole else _part(f"{path}.part"))}
        incoming += 0 if whole else wanted.integer("bytes", 0) - int(found["bytes"])
        files[wanted.text("path")] = found
    missing = any(not each["whole"] for each in files.values())
    incoming += job.integer("extra_bytes", 0) if missing else 0
    needed = incoming + job.integer("margin_bytes", 0) if missing else 0
    rules, workdir = job.part("tidy"), job.path("workdir")
    make_room(rules, keep, incoming)
    if free_bytes(workdir) < needed:
        make_room(Job({**rules.fields, "quota_bytes": 0}), keep, incoming)
    emit({"event": "stock", "files": files, "free": free_bytes(workdir), "needed": needed})


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
    with _sole_writer(part, job.seconds("patience_s")) as descriptor:
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
def _sole_writer(part: str, patience_s: float) -> Iterator[int]:
    """The part, open and locked. The agent of a host that has just died needs a moment to find out."""
    ends = time.monotonic() + patience_s
    while True:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if _locked(descriptor, part):
                yield descriptor
                return
        finally:
            os.close(descriptor)
        if time.monotonic() >= ends:
            raise Failure("locked", f"another host is sending {part} at this moment")
        time.sleep(0.05)


def _locked(descriptor: int, part: str) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Another host may have completed and renamed it meanwhile.
        return os.path.samestat(os.fstat(descriptor), os.stat(part))
    except (BlockingIOError, FileNotFoundError):
        return False


def _write(descriptor: int, block: bytes) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[os.write(descriptor, rest) :]

"""What nobody uses any more leaves the device: a disk that only fills ends full."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time

from device_agents.channel import Emit
from device_agents.job import Job


def touch(path: str) -> None:
    """Mark a file or folder as used now."""
    with contextlib.suppress(OSError):
        os.utime(path)


def free_bytes(path: str) -> int:
    """What may still be written where `path` is, or will be."""
    path = os.path.abspath(path)
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def size_of(path: str) -> int:
    """The bytes of a file, or of all files in a folder."""
    total = os.lstat(path).st_size if not os.path.isdir(path) else 0
    for root, _, names in os.walk(path):
        total += sum(os.lstat(os.path.join(root, name)).st_size for name in names)
    return total


def remove(path: str) -> None:
    """Delete a file, a link, or a folder with all that is in it."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def tidy(job: Job, emit: Emit) -> None:
    """`tidy`: of what lies in the `folders`, whatever was not used for `unused_s` seconds is removed; of the rest, what
    was used longest ago, until it takes no more than `quota_bytes`.

    Used is what was written, hashed or verified. Needs no lock: what a job under way uses, it used within the last
    `recent_s` seconds, and that the quota does not reach, nor what is in `keep`.
    """
    touch(os.path.abspath(sys.argv[0]))
    now = time.time()
    entries = []
    for folder in (os.path.expanduser(folder) for folder in job.texts("folders")):
        for entry in os.scandir(folder) if os.path.isdir(folder) else []:
            entries.append((entry.stat(follow_symlinks=False).st_mtime, entry.path))
    sizes = {path: size_of(path) for _, path in entries}
    excess = sum(sizes.values()) - job.integer("quota_bytes", 0)
    kept = {os.path.expanduser(path) for path in job.texts("keep")}
    removed = []
    for used, path in sorted(entries):
        unused = used < now - job.seconds("unused_s")
        over = excess > 0 and used < now - job.seconds("recent_s")
        if (unused or over) and path not in kept:
            remove(path)
            excess -= sizes[path]
            removed.append(path)
    emit({"event": "tidied", "removed": removed, "free": free_bytes(job.path("workdir"))})

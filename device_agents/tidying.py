"""What nobody uses any more leaves the device: a disk that only fills ends full."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Collection

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
    """The bytes of a file, or of all files in a folder; of what another job removes meanwhile, none."""
    paths = [] if os.path.isdir(path) else [path]
    for root, _, names in os.walk(path):
        paths += [os.path.join(root, name) for name in names]
    total = 0
    for each in paths:
        with contextlib.suppress(FileNotFoundError):
            total += os.lstat(each).st_size
    return total


def remove(path: str) -> None:
    """Delete a file, a link, or a folder with all that is in it, whoever else is at it."""
    if os.path.isdir(path) and not os.path.islink(path):
        while os.path.isdir(path):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def make_room(rules: Job, keep: Collection[str], incoming: int) -> list[str]:
    """Remove from the `folders` what was not used for `unused_s` seconds; then what was used longest ago, until with
    `incoming` bytes more it is no more than `quota_bytes`. Returns what was removed.

    Used is what was written, hashed or verified. Needs no lock: what a job under way uses, it used within the last
    `recent_s` seconds, and that the quota does not reach, nor what is in `keep`.
    """
    now = time.time()
    entries = []
    for folder in (os.path.expanduser(folder) for folder in rules.texts("folders")):
        for entry in os.scandir(folder) if os.path.isdir(folder) else []:
            with contextlib.suppress(FileNotFoundError):
                entries.append((entry.stat(follow_symlinks=False).st_mtime, entry.path))
    sizes = {path: size_of(path) for _, path in entries}
    excess = sum(sizes.values()) + incoming - rules.integer("quota_bytes", 0)
    removed = []
    for used, path in sorted(entries):
        unused = used < now - rules.seconds("unused_s")
        over = excess > 0 and used < now - rules.seconds("recent_s")
        if (unused or over) and path not in keep:
            remove(path)
            excess -= sizes[path]
            removed.append(path)
    return removed

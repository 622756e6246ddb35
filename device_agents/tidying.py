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


def tidy(job: Job, emit: Emit) -> None:
    """`tidy`: of what lies in the `folders`, whatever was not used for `unused_s` seconds is removed.

    Used is what was written, hashed or verified. Needs no lock: what a job under way uses, it used just now.
    """
    touch(os.path.abspath(sys.argv[0]))
    limit = time.time() - job.seconds("unused_s")
    removed = []
    for folder in (os.path.expanduser(folder) for folder in job.texts("folders")):
        for entry in (
            sorted(os.scandir(folder), key=lambda entry: entry.name) if os.path.isdir(folder) else []
        ):
            if entry.stat(follow_symlinks=False).st_mtime < limit:
                is_folder = entry.is_dir(follow_symlinks=False)
                shutil.rmtree(entry.path) if is_folder else os.unlink(entry.path)
                removed.append(entry.path)
    emit({"event": "tidied", "removed": removed})

"""Everything of ours leaves the device."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from device_agents import controls, fence, lock
from device_agents.channel import Emit
from device_agents.job import Job
from device_agents.tidying import remove, size_of


def clean(job: Job, emit: Emit) -> None:
    """`clean`: remove the `paths`, the lock last, then the `folders` that are empty without them.

    Nothing is removed while another job has the device.
    """
    removed: list[dict[str, Any]] = []
    lock_path = job.path("lock")
    with lock.of(job):
        controls.undo(lock_path)
        for path in (os.path.expanduser(path) for path in job.texts("paths")):
            if os.path.lexists(path):
                removed.append({"path": path, "bytes": size_of(path)})
                remove(path)
        fence.forget(lock_path)
        os.unlink(lock_path)
    for folder in (os.path.expanduser(folder) for folder in job.texts("folders")):
        with contextlib.suppress(OSError):
            os.rmdir(folder)
            removed.append({"path": folder, "bytes": 0})
    emit({"event": "cleaned", "removed": removed})

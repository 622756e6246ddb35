"""Why a job ended without its result, in words for the person who reads them on the host."""

from __future__ import annotations

import errno

DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})


class Failure(Exception):
    """A job's error line in the making.

    `kind` is one of job, locked, fenced, deadline, damaged, crashed, forbidden, model, disk, unhealthy, restart; `step`
    the index of the measuring step at fault, `stderr` the last words of its process.
    """

    def __init__(self, kind: str, message: str, *, step: int | None = None, stderr: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.step = step
        self.stderr = stderr

    @classmethod
    def from_os_error(cls, error: OSError) -> Failure:
        """The device's disk is at fault (full, read-only, broken), or else a path the job names."""
        where = f" ({error.filename})" if error.filename else ""
        reason = error.strerror or str(error)
        if error.errno in DISK_ERRORS:
            return cls("disk", f"the device could not write: {reason}{where}; free some space there")
        return cls("job", f"the device could not use a file: {reason}{where}")

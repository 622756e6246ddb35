"""One job at a time on one device."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator

from device_agents.failure import Failure


@contextlib.contextmanager
def held(path: str) -> Iterator[None]:
    """Hold the device's lock, or raise Failure("locked") naming who holds it.

    The kernel releases it when this process ends, however it ends; what the file still says then is stale and
    harmless. Children do not inherit it. Who removes the file holds the lock: so a lock counts only while its file
    has the name.
    """
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    descriptor = _taken(path)
    try:
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "since": since}).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _taken(path: str) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.exists(path) and os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise Failure("locked", f"another job has the device: {holder}; wait for it or end it") from None
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    try:
        said = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {said['pid']} since {said['since']}"
    except (ValueError, KeyError, TypeError):
        return "a process that has not said which yet"

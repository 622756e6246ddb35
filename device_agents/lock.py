"""One job at a time on one device."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

from device_agents import fence
from device_agents.failure import Failure
from device_agents.fence import Fence
from device_agents.job import Job

# How long the job of a lease that has ended may take to clean up, and as long again once it was killed.
PATIENCE_S = 10.0
LOOK_EVERY_S = 0.05


@contextlib.contextmanager
def of(job: Job) -> Iterator[None]:
    """Hold the lock that the job names, under its lease if it has one."""
    with held(job.path("lock"), fence.of(job)):
        yield


@contextlib.contextmanager
def held(path: str, lease: Fence | None = None) -> Iterator[None]:
    """Hold the device's lock, or raise Failure("locked") naming who holds it.

    The kernel releases it when this process ends, however it ends; what the file still says then is stale and
    harmless. Children do not inherit it. Who removes the file holds the lock: so a lock counts only while its file
    has the name.

    Under a lease, a job that holds it under an earlier one of the same farm is ended; and Failure("fenced") is raised
    where a later one was seen.
    """
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    if lease is not None:
        fence.remember(path, lease)
    descriptor = _taken_over(path, lease)
    try:
        if lease is not None:
            # What was seen while this one waited. Whoever comes from here on finds who holds the lock.
            fence.remember(path, lease)
        yield
    finally:
        os.close(descriptor)


def _taken_over(path: str, lease: Fence | None) -> int:
    """The lock, taken from the job of a lease that has ended if need be: asked first, then killed."""
    number, ends = signal.SIGTERM, time.monotonic() + PATIENCE_S
    while True:
        holder, descriptor = _tried(path, lease)
        if descriptor is not None:
            return descriptor
        if lease is None or (holder and not lease.newer_than(fence.described(holder))):
            raise _locked(holder)
        if time.monotonic() >= ends:
            if not holder or number == signal.SIGKILL:
                raise _locked(holder)
            number, ends = signal.SIGKILL, time.monotonic() + PATIENCE_S
        if holder:
            _end(holder, number)
        time.sleep(LOOK_EVERY_S)


def _tried(path: str, lease: Fence | None) -> tuple[dict[str, Any], int | None]:
    """The lock, with our name in it; or else what its holder has written there, which may be nothing yet."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.exists(path) and os.path.samestat(os.fstat(descriptor), os.stat(path)):
                _sign(descriptor, lease)
                return {}, descriptor
        except BlockingIOError:
            holder = _said(descriptor)
            os.close(descriptor)
            return holder, None
        os.close(descriptor)


def _sign(descriptor: int, lease: Fence | None) -> None:
    pid, since = os.getpid(), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    named = {} if lease is None else {"farm": lease.farm, "token": lease.token, "born": _born(pid)}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps({"pid": pid, "since": since, **named}).encode(), 0)


def _said(descriptor: int) -> dict[str, Any]:
    try:
        said = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:
        return {}
    return said if isinstance(said, dict) and isinstance(said.get("pid"), int) else {}


def _end(holder: dict[str, Any], number: int) -> None:
    """Send a signal to the process that wrote this, unless its number is another's by now."""
    if holder["born"] is None or _born(holder["pid"]) != holder["born"]:
        return
    try:
        os.kill(holder["pid"], number)
    except ProcessLookupError:
        return
    except PermissionError:
        raise _locked(holder) from None


def _born(pid: int) -> str | None:
    """When a process began, in the kernel's ticks; None where it cannot be seen."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            # The second field, a name in parentheses, may hold anything.
            return stream.read().rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError):
        return None


def _locked(holder: dict[str, Any]) -> Failure:
    who = (
        f"process {holder['pid']} since {holder.get('since')}"
        if holder
        else "a process that has not said which yet"
    )
    return Failure("locked", f"another job has the device: {who}; wait for it or end it")

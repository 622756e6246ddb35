"""The device agent: one job in, as a line of JSON on standard input; JSON lines out; one last line always.

Standard input stays open for as long as the host wants the answer. Its end stops the job.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Callable

from device_agents import (
    channel,
    cleaning,
    files,
    installation,
    receiving,
    session,
    tidying,
    unpacking,
    worker,
)
from device_agents.channel import Emit, HostGone
from device_agents.failure import Failure
from device_agents.job import Job

Action = Callable[[Job, Emit], None]


def actions() -> dict[str, Action]:
    """What a job may ask for, by the name in its `do`."""
    return {
        "stock": receiving.stock,
        "receive": receiving.receive,
        "hash": files.hash_files,
        "unpack": unpacking.unpack,
        "verify": files.verify,
        "remove": files.remove,
        "tidy": tidying.tidy,
        "clean": cleaning.clean,
        "install": installation.install,
        "rollback": installation.rollback,
        "status": installation.status,
        "measure": session.measure,
    }


def main(arguments: Sequence[str]) -> int:
    """Run one job, or with the argument `worker` one step of one. Returns the exit code."""
    return worker.main() if list(arguments) == ["worker"] else serve()


def serve() -> int:
    """One job. Exit code 0 after the line `done`; 1 after the line `error`, or when the host has gone."""
    os.umask(os.umask(0o077) | 0o022)  # nothing of ours is for others to write
    emit = channel.claim_stdout()
    try:
        failure = _attempt(emit)
        channel.outlive_host()
        emit({"event": "done"} if failure is None else _error_line(failure))
    except HostGone:
        print("the host has gone; the job was given up", file=sys.stderr)
        return 1
    return 0 if failure is None else 1


def _attempt(emit: Emit) -> Failure | None:
    try:
        job = Job.parse(channel.read_line())
        channel.end_with_host(watch_input=job.fields.get("do") != "receive")
        _action(job)(job, emit)
        return None
    except Failure as failure:
        return failure
    except OSError as error:
        return Failure.from_os_error(error)
    except Exception as error:
        traceback.print_exc()
        return Failure(
            "job", f"the agent itself failed: {type(error).__name__}: {error}", stderr=traceback.format_exc()
        )


def _action(job: Job) -> Action:
    known, asked = actions(), job.text("do")
    if asked not in known:
        raise Failure("job", f"expected job.do to be one of {', '.join(known)}. Received: {asked!r}")
    return known[asked]


def _error_line(failure: Failure) -> dict[str, object]:
    return {
        "event": "error",
        "kind": failure.kind,
        "message": failure.message,
        "step": failure.step,
        "stderr": failure.stderr,
    }

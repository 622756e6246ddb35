"""The device agent: one job in, as a line of JSON on standard input; JSON lines out; one last line always.

Standard input stays open for as long as the host wants the answer. Its end stops the job.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Callable

from device_agents import channel
from device_agents.channel import Emit, HostGone
from device_agents.failure import Failure
from device_agents.job import Job

Action = Callable[[Job, Emit], None]


# What a job may ask for, by the name in its `do`. A module is loaded when it is asked for: from its archive Python
# compiles each anew, which on a small board takes longer than most jobs.
ACTIONS = {
    "stock": "receiving",
    "receive": "receiving",
    "hash": "files",
    "unpack": "unpacking",
    "verify": "files",
    "remove": "files",
    "clean": "cleaning",
    "install": "installation",
    "rollback": "installation",
    "status": "installation",
    "trial": "trial",
    "measure": "session",
    "cool_down": "cooling",
}


def main(arguments: Sequence[str]) -> int:
    """Run one job, or with the argument `worker` one step of one. Returns the exit code."""
    if list(arguments) == ["worker"]:
        from device_agents import worker

        return worker.main()
    return serve()


def serve() -> int:
    """One job. Exit code 0 after the line `done`; 1 after the line `error`, or when the host has gone."""
    emit = channel.claim_stdout()
    try:
        failure = _attempt(emit)
        channel.outlive_host()
        emit({"event": "done"} if failure is None else _error_line(failure))
    except HostGone:
        print("the host has gone, or a later lease has the device; the job was given up", file=sys.stderr)
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
        import traceback

        traceback.print_exc()
        return Failure(
            "job", f"the agent itself failed: {type(error).__name__}: {error}", stderr=traceback.format_exc()
        )


def _action(job: Job) -> Action:
    asked = job.text("do")
    if asked not in ACTIONS:
        raise Failure("job", f"expected job.do to be one of {', '.join(ACTIONS)}. Received: {asked!r}")
    module = importlib.import_module(f"device_agents.{ACTIONS[asked]}")
    action: Action = getattr(module, {"hash": "hash_files"}.get(asked, asked))
    return action


def _error_line(failure: Failure) -> dict[str, object]:
    return {
        "event": "error",
        "kind": failure.kind,
        "message": failure.message,
        "step": failure.step,
        "stderr": failure.stderr,
    }

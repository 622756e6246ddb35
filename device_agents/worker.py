"""One step in one fresh process: a request in, a result or a failure out."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

from device_agents import channel, steps
from device_agents.failure import Failure

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> int:
    """Run the step that standard input asks for, and write one line: {"result": event} or {"failure": ...}.

    Ends at once when the launcher does, even in the middle of a native call.
    """
    emit = channel.claim_stdout()
    _die_with_parent()
    request = json.loads(channel.read_line())
    channel.when_input_ends(lambda: os._exit(1))
    if request["bundle"] is not None:
        sys.path.insert(0, request["bundle"])
    try:
        emit({"result": _step(request)})
    except Failure as failure:
        emit({"failure": {"kind": failure.kind, "message": failure.message}})
    # The answer is out: what native libraries do as they are torn down is not part of it.
    sys.stderr.flush()
    os._exit(0)


def _step(request: dict[str, Any]) -> dict[str, Any]:
    kinds = {
        "evaluate": steps.evaluate,
        "check": steps.check,
        "profile": steps.profile,
        "time": steps.repetition,
        "cold": steps.cold,
        "sustain": steps.sustain,
        "spend": steps.spend,
        "trial": steps.trial,
    }
    try:
        return kinds[request["kind"]](request)
    except ImportError as error:
        raise Failure(
            "job", f"{request['runtime']} cannot be imported: {error}; provision the device again"
        ) from None
    except OSError as error:
        raise Failure.from_os_error(error) from None


def _die_with_parent() -> None:
    """Have the kernel kill us with the launcher. Where it cannot, the end of standard input does, a little
    later.
    """
    try:
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    except (ImportError, OSError, AttributeError):
        return

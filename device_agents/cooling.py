"""`cool_down`: let the device rest until it is as cool as it was."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from device_agents import lock, speed
from device_agents.channel import Emit
from device_agents.failure import Failure
from device_agents.job import Job

LOOK_EVERY_S = 1.0
# A thermometer of a chip moves by as much at rest.
WARMER_C = 1.0
THROTTLED_NOW = 0xF


def cool_down(job: Job, emit: Emit) -> None:
    """Rest for `seconds` at most, holding the device; `temperatures_c` is how warm each zone may be in the end."""
    aim = job.mapping("temperatures_c")
    if not all(isinstance(each, (int, float)) for each in aim.values()):
        raise Failure("job", f"expected job.temperatures_c to hold numbers. Received: {aim!r}")
    with lock.of(job):
        emit({"event": "cooled", **rest(job.seconds("seconds"), aim)})


def rest(seconds: float, aim: Mapping[str, float]) -> dict[str, Any]:
    """Wait until no zone is warmer than `aim` and nothing throttles the board any more; where the device has no
    thermometer, or no zone of that name, all the time. Returns `seconds`, `temperatures_c` and the `reason` it ended.
    """
    began = time.monotonic()
    while True:
        found, throttled = speed.temperatures_c(), speed.throttled() or 0
        known = [zone for zone in aim if zone in found]
        cool = bool(known) and all(found[zone] <= aim[zone] + WARMER_C for zone in known)
        passed = time.monotonic() - began
        if cool and not throttled & THROTTLED_NOW:
            return {"seconds": passed, "temperatures_c": found, "reason": "as cool as in the beginning"}
        if passed >= seconds:
            reason = "the time was up" if known else "it has no thermometer"
            return {"seconds": passed, "temperatures_c": found, "reason": reason}
        time.sleep(min(LOOK_EVERY_S, seconds - passed))

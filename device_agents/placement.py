"""Where the measured process runs, and how urgently: its own settings, which end with it."""

from __future__ import annotations

import os
from typing import Any

from device_agents import sysfiles
from device_agents.failure import Failure
from device_agents.job import Job

# What tells fast cores from slow ones: the scheduler's measure on big.LITTLE, else the highest frequency.
CAPACITIES = (
    "/sys/devices/system/cpu/cpu{}/cpu_capacity",
    "/sys/devices/system/cpu/cpu{}/cpufreq/cpuinfo_max_freq",
)


def wanted(controls: Job) -> dict[str, Any]:
    """What a job asks of placement: `cores` (fast, or their numbers; None: any) and `priority` (0: as it is)."""
    cores, priority = controls.fields.get("cores"), controls.fields.get("priority") or 0
    if cores not in (None, "fast") and not (
        isinstance(cores, list) and all(isinstance(one, int) for one in cores)
    ):
        raise Failure(
            "job", f"expected {controls.name}.cores to be fast or a list of numbers. Received: {cores!r}"
        )
    if not isinstance(priority, int):
        raise Failure(
            "job", f"expected {controls.name}.priority to be a whole number. Received: {priority!r}"
        )
    return {"cores": cores, "priority": priority}


def take(cores: Any, priority: int) -> dict[str, Any]:
    """Bind this process to the cores and set its priority. Returns where it now runs (`cores`), its `priority`, and
    what was `refused`, in words."""
    refused = []
    chosen = fast_cores() if cores == "fast" else cores
    if chosen == []:
        refused.append("cores fast: the device does not tell which of its cores are fast")
    elif chosen:
        try:
            os.sched_setaffinity(0, chosen)
        except (OSError, ValueError, OverflowError) as error:
            refused.append(f"cores {chosen}: {getattr(error, 'strerror', None) or error}")
    if priority:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, priority)
        except OSError as error:
            refused.append(f"priority {priority}: {error.strerror}")
    return {
        "cores": sorted(os.sched_getaffinity(0)),
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "refused": refused,
    }


def fast_cores() -> list[int]:
    """The fastest of the cores that this process may use; all of them where they are alike, none where the device
    does not tell."""
    for pattern in CAPACITIES:
        known = {core: sysfiles.number(pattern.format(core)) for core in sorted(os.sched_getaffinity(0))}
        most = max((each for each in known.values() if each is not None), default=None)
        if most is not None:
            return [core for core, each in known.items() if each == most]
    return []

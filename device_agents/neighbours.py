"""Other programs at work on the device: who took how much of a core, by the kernel's accounts of all processes."""

from __future__ import annotations

import os
import time
from typing import Any

from device_agents import sysfiles

# Told: the busiest, each with at least such a share of one core.
TOLD, LEAST_SHARE = 5, 0.05
# Fields of /proc/PID/stat (proc_pid_stat(5)) after the name: user and system ticks, and the start.
UTIME, STIME, START = 11, 12, 19


class Neighbours:
    """The processor time of every process but this one, from here on. Costs some ten microseconds a process: nothing
    is timed meanwhile."""

    def __init__(self) -> None:
        self._before, self._began = _ticks(), time.monotonic()

    def busiest(self) -> list[dict[str, Any]]:
        """`name` and `share` of one core, the busiest first. Whoever began and ended in between is not seen; nor are
        others' processes where the system hides them."""
        seconds = time.monotonic() - self._began
        if seconds <= 0:
            return []
        second = os.sysconf("SC_CLK_TCK") * seconds
        shares = [
            ((ticks - self._before.get(key, ("", 0))[1]) / second, name)
            for key, (name, ticks) in _ticks().items()
        ]
        busiest = sorted((each for each in shares if each[0] >= LEAST_SHARE), reverse=True)[:TOLD]
        return [{"name": name, "share": round(share, 3)} for share, name in busiest]


def _ticks() -> dict[tuple[str, str], tuple[str, int]]:
    """Name and ticks of each process, by its id and start."""
    own, found = str(os.getpid()), {}
    for path in sysfiles.find("/proc/[0-9]*/stat"):
        said, pid = sysfiles.read(path), path.split("/")[2]
        if not said or pid == own:
            continue
        # The name stands in brackets and may hold any of them itself.
        name, _, rest = said.partition("(")[2].rpartition(")")
        fields = rest.split()
        if len(fields) > START:
            found[pid, fields[START]] = name, int(fields[UTIME]) + int(fields[STIME])
    return found

"""How busy the device is, and how short of memory."""

from __future__ import annotations

import re

from device_agents import sysfiles


def average() -> list[float] | None:
    """The load average over 1, 5 and 15 minutes."""
    found = re.match(r"([\d.]+) ([\d.]+) ([\d.]+) ", sysfiles.read("/proc/loadavg") or "")
    return [float(each) for each in found.groups()] if found else None


def pressure() -> dict[str, float]:
    """Share of the last 10 s, in percent, in which some task waited for this resource (PSI)."""
    found = {}
    for resource in ("cpu", "memory", "io"):
        some = re.search(r"some avg10=([\d.]+)", sysfiles.read(f"/proc/pressure/{resource}") or "")
        if some:
            found[resource] = float(some[1])
    return found


def memory() -> dict[str, int]:
    """Bytes of memory and of swap, in all and still free."""
    names = {
        "MemTotal": "total",
        "MemAvailable": "available",
        "SwapTotal": "swap_total",
        "SwapFree": "swap_free",
    }
    lines = (line.partition(":")[::2] for line in (sysfiles.read("/proc/meminfo") or "").splitlines())
    return {names[key]: int(value.split()[0]) * 1024 for key, value in lines if key in names}


def swapped_pages() -> dict[str, int]:
    """Pages swapped `in` and `out` since the device started."""
    fields = dict(
        line.split() for line in (sysfiles.read("/proc/vmstat") or "").splitlines() if line.count(" ") == 1
    )
    return {way: int(fields[f"pswp{way}"]) for way in ("in", "out") if f"pswp{way}" in fields}

"""What only a phone tells: its battery, and how far its system throttles it for heat."""

from __future__ import annotations

import re
from typing import Any

from device_agents import sysfiles
from device_agents.speed import command_output

BATTERY = "/sys/class/power_supply"
# From `dumpsys battery`, whose temperature is in tenths of a degree.
SAID = {"level": "level_percent", "temperature": "temperature_c", "AC powered": "mains", "USB powered": "usb"}


def observe() -> dict[str, Any]:
    """`thermal_status` (0 none, 1 light, 2 moderate, 3 severe, 4 critical, 5 emergency, 6 shutdown:
    PowerManager.THERMAL_STATUS_*), and the `battery`, by dumpsys where that is permitted, else by sysfs.
    """
    status = re.search(r"Thermal Status: (\d+)", command_output("dumpsys", "thermalservice") or "")
    return {
        "thermal_status": int(status[1]) if status else None,
        "battery": _by_dumpsys() or _by_sysfs(),
    }


def _by_dumpsys() -> dict[str, Any]:
    said = dict(re.findall(r"^\s+([\w ]+): (\S+)$", command_output("dumpsys", "battery") or "", re.MULTILINE))
    found: dict[str, Any] = {
        ours: {"true": True, "false": False}.get(said[theirs], said[theirs])
        for theirs, ours in SAID.items()
        if theirs in said
    }
    for key, scale in (("level_percent", 1), ("temperature_c", 10)):
        if key in found:
            found[key] = int(found[key]) / scale if re.fullmatch(r"-?\d+", found[key]) else None
    return found


def _by_sysfs() -> dict[str, Any]:
    for folder in sysfiles.find(f"{BATTERY}/*"):
        if sysfiles.read(f"{folder}/type") == "Battery":
            temperature = sysfiles.number(f"{folder}/temp")
            return {
                "level_percent": sysfiles.number(f"{folder}/capacity"),
                "temperature_c": None if temperature is None else temperature / 10,
                "status": sysfiles.read(f"{folder}/status"),
            }
    return {}

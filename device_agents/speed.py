"""How fast the cores may run, how fast they do, and what holds them back."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import Any

from device_agents import sysfiles

CPUFREQ = "/sys/devices/system/cpu/cpu[0-9]*/cpufreq"
ZONES = "/sys/class/thermal/thermal_zone*"
# The Raspberry Pi's firmware driver, in hexadecimal.
THROTTLED = "/sys/devices/platform/soc/soc:firmware/get_throttled"


def by_core(setting: str) -> dict[str, str]:
    """A setting of cpufreq, such as `scaling_governor`, of each core that has it."""
    values = {
        folder.split("/")[-2]: sysfiles.read(f"{folder}/{setting}") for folder in sysfiles.find(CPUFREQ)
    }
    return {core: value for core, value in values.items() if value}


def frequencies_hz() -> dict[str, int]:
    """What each core runs at now, by its name (`cpu0`)."""
    return {core: int(khz) * 1000 for core, khz in by_core("scaling_cur_freq").items() if khz.isdigit()}


def temperatures_c() -> dict[str, float]:
    """What each thermal zone tells, in Celsius."""
    found = {}
    for zone in sysfiles.find(ZONES):
        value = sysfiles.number(f"{zone}/temp")
        if value is not None:
            found[os.path.basename(zone)] = value / 1000
    return found


def throttled() -> int | None:
    """A Raspberry Pi's throttle bits: 0 to 3 now (under-voltage, frequency capped, throttled, soft
    temperature limit), 16 to 19 since boot. Source: `vcgencmd get_throttled`, else the firmware driver's file.
    """
    said = command_output("vcgencmd", "get_throttled")
    bits = re.fullmatch(r"throttled=0x([0-9a-fA-F]+)\s*", said or "")
    if bits is None:
        bits = re.fullmatch(r"(?:0x)?([0-9a-fA-F]+)", sysfiles.read(THROTTLED) or "")
    return int(bits[1], 16) if bits else None


def command_output(*argv: str) -> str | None:
    """What a command of the device's says; None where there is none, it fails, or takes too long."""
    tool = shutil.which(argv[0])
    if tool is None:
        return None
    try:
        ended = subprocess.run([tool, *argv[1:]], stdin=subprocess.DEVNULL, capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if ended.returncode else ended.stdout.decode(errors="replace")


def observe() -> dict[str, Any]:
    """What a core runs at now, and how hot it is: soon asked, in the very process that is timed."""
    return {"frequencies_hz": frequencies_hz(), "temperatures_c": temperatures_c()}

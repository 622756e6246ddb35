"""What about the device can spoil a figure, or tell it from another device. None or empty where it does not
tell.
"""

from __future__ import annotations

import glob
import hashlib
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
import time
from typing import Any

from device_agents import memory

CPUFREQ = "/sys/devices/system/cpu/cpu[0-9]*/cpufreq"


def observe() -> dict[str, Any]:
    """The state of the device now. Sizes in bytes, frequencies in hertz, temperatures in Celsius."""
    return {
        "board": _board(),
        "identity": _identity(),
        "firmware": _firmware(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "userland_bits": struct.calcsize("P") * 8,
        "libc": " ".join(platform.libc_ver()).strip() or None,
        "python": platform.python_version(),
        "platform": sys.platform,
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "governors": _by_core("scaling_governor"),
        **observe_speed(),
        "throttled": _throttled(),
        "load_average": _load_average(),
        "pressure": _pressure(),
        "memory": _memory(),
        "peak_memory_resets": memory.reset_peak(),
        "clocks_s": _clocks(),
    }


def observe_speed() -> dict[str, Any]:
    """What a core runs at now, and how hot it is: soon asked, in the very process that was timed."""
    return {
        "frequencies_hz": {core: int(khz) * 1000 for core, khz in _by_core("scaling_cur_freq").items()},
        "temperatures_c": _temperatures(),
    }


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read().strip("\0 \n")
    except OSError:
        return None


def _board() -> str | None:
    return _read("/proc/device-tree/model")


def _identity() -> str | None:
    """Tells one board from another of its kind without telling its serial number."""
    number = _read("/proc/device-tree/serial-number") or _read("/etc/machine-id")
    return hashlib.sha256(number.encode()).hexdigest()[:16] if number else None


def _firmware() -> str | None:
    """The version of what starts the board: a Raspberry Pi's bootloader, a PC's BIOS."""
    return _read("/proc/device-tree/chosen/bootloader/version") or _read("/sys/class/dmi/id/bios_version")


def _cpu() -> dict[str, Any]:
    """Arm names its cores by implementer and part, x86 by a model name; `parts` tells big cores from little
    ones.
    """
    lines = [line.partition(":")[::2] for line in (_read("/proc/cpuinfo") or "").splitlines()]
    values: dict[str, list[str]] = {}
    for key, value in lines:
        values.setdefault(key.strip(), []).append(value.strip())
    features = values.get("Features") or values.get("flags") or [""]
    return {
        "model": next(iter(values.get("model name", [])), None),
        "implementer": next(iter(values.get("CPU implementer", [])), None),
        "parts": sorted(set(values.get("CPU part", []))),
        "features": sorted(features[0].split()),
    }


def _by_core(setting: str) -> dict[str, str]:
    found = {}
    for folder in sorted(glob.glob(CPUFREQ)):
        value = _read(os.path.join(folder, setting))
        if value:
            found[folder.split("/")[-2]] = value
    return found


def _temperatures() -> dict[str, float]:
    found = {}
    for zone in sorted(glob.glob("/sys/class/thermal/thermal_zone*")):
        value = _read(os.path.join(zone, "temp"))
        if value and re.fullmatch(r"-?\d+", value):
            found[os.path.basename(zone)] = int(value) / 1000
    return found


def _throttled() -> int | None:
    """A Raspberry Pi's throttle bits: 0 to 3 now (under-voltage, frequency capped, throttled, soft
    temperature limit), 16 to 19 the same since boot. Source: `vcgencmd get_throttled`.
    """
    tool = shutil.which("vcgencmd")
    if tool is None:
        return None
    try:
        said = subprocess.run(
            [tool, "get_throttled"], stdin=subprocess.DEVNULL, capture_output=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    bits = re.fullmatch(rb"throttled=0x([0-9a-fA-F]+)\s*", said.stdout)
    return int(bits[1], 16) if bits else None


def _load_average() -> list[float] | None:
    try:
        return list(os.getloadavg())
    except OSError:
        return None


def _pressure() -> dict[str, float]:
    """Share of the last 10 s, in percent, in which some task waited for this resource (PSI)."""
    found = {}
    for resource in ("cpu", "memory", "io"):
        some = re.search(r"some avg10=([\d.]+)", _read(f"/proc/pressure/{resource}") or "")
        if some:
            found[resource] = float(some[1])
    return found


def _memory() -> dict[str, int]:
    names = {
        "MemTotal": "total",
        "MemAvailable": "available",
        "SwapTotal": "swap_total",
        "SwapFree": "swap_free",
    }
    lines = (line.partition(":")[::2] for line in (_read("/proc/meminfo") or "").splitlines())
    return {names[key]: int(value.split()[0]) * 1024 for key, value in lines if key in names}


def _clocks() -> dict[str, float]:
    """The wall clock, the clock behind every figure, and the one that also counts sleep: a device that dozed
    off between two observations shows here.
    """
    clocks = {
        "realtime": time.CLOCK_REALTIME,
        "monotonic": time.CLOCK_MONOTONIC,
        "boottime": time.CLOCK_BOOTTIME,
    }
    return {name: time.clock_gettime(clock) for name, clock in clocks.items()}

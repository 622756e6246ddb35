"""What about the device can spoil a figure, or tell it from another device. None or empty where it does not
tell.
"""

from __future__ import annotations

import hashlib
import os
import platform
import struct
import sys
from typing import Any

from device_agents import android, clocks, load, memory, speed
from device_agents.sysfiles import read as _read

FIRMWARE = {
    "bootloader": "/proc/device-tree/chosen/bootloader/version",
    "bios": "/sys/class/dmi/id/bios_version",
    "bios_date": "/sys/class/dmi/id/bios_date",
}


def observe() -> dict[str, Any]:
    """The state of the device now. Sizes in bytes, frequencies in hertz, temperatures in Celsius."""
    return {
        "board": _board(),
        "identity": _identity(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "kernel_build": platform.version(),
        "firmware": _firmware(),
        "userland_bits": struct.calcsize("P") * 8,
        "libc": " ".join(platform.libc_ver()).strip() or None,
        "python": platform.python_version(),
        "platform": sys.platform,
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "governors": speed.by_core("scaling_governor"),
        **speed.observe(),
        "throttled": speed.throttled(),
        "load_average": load.average(),
        "pressure": load.pressure(),
        "memory": load.memory(),
        "swapped_pages": load.swapped_pages(),
        **android.observe(),
        "peak_memory_resets": memory.reset_peak(),
        "clocks_s": clocks.of_day_s(),
    }


def _board() -> str | None:
    return _read("/proc/device-tree/model")


def _identity() -> str | None:
    """Tells one board from another of its kind without telling its serial number."""
    number = _read("/proc/device-tree/serial-number") or _read("/etc/machine-id")
    return hashlib.sha256(number.encode()).hexdigest()[:16] if number else None


def _firmware() -> dict[str, str]:
    """What the device's own software was built as; on Android the system's fingerprint."""
    found = {name: _read(path) for name, path in FIRMWARE.items()}
    found["android"] = (speed.command_output("getprop", "ro.build.fingerprint") or "").strip()
    return {name: value for name, value in found.items() if value}


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

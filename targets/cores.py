"""The kinds of processor cores, by what the TFLite runtimes' sparse kernels need of them."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Literal

# x86: with AVX. arm: without half-precision arithmetic (Cortex-A53, A72). arm-fp16: with it (Cortex-A55, A76).
Core = Literal["x86", "arm", "arm-fp16"]
# What /proc/cpuinfo calls half-precision arithmetic on vectors.
HALF_PRECISION = "asimdhp"


def of_machine(machine: str, features: str | None) -> Core | None:
    """The kind of a machine's cores by its name and the features its `/proc/cpuinfo` gives, None where it has none."""
    machine = machine.lower()
    if machine in ("x86_64", "amd64"):
        return "x86"
    if not machine.startswith(("aarch64", "arm")):
        return None
    if features is None:
        # Of Arm machines without it, Apple's have half precision.
        return "arm-fp16" if machine == "arm64" else "arm"
    return "arm-fp16" if HALF_PRECISION in features.split() else "arm"


def of_this_machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> Core | None:
    """The kind of this machine's cores; None where it is no kind we know."""
    try:
        return of_machine(platform.machine(), cpuinfo.read_text())
    except OSError:
        return of_machine(platform.machine(), None)

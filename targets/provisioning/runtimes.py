"""The TFLite runtimes there are for a device's Python: what is fetched for each, and where it fits."""

from __future__ import annotations

from dataclasses import dataclass

from targets.errors import TargetError
from targets.probe import Probe


@dataclass(frozen=True)
class Runtime:
    """A runtime: the packages of its bundle, the Pythons it is built for, and the oldest glibc for each userland.

    `unneeded` are parts of the packages (glob patterns) that the interpreter never loads.
    """

    name: str
    requirements: tuple[str, ...]
    pythons: tuple[tuple[int, int], ...]
    glibc: dict[str, tuple[int, int]]
    unneeded: tuple[str, ...] = ()

    def misfit(self, probe: Probe) -> str:
        """Why the runtime does not fit the device; empty when it does."""
        if probe.python is None:
            return probe.python_problem
        if probe.implementation != "cpython" or probe.python[:2] not in self.pythons:
            built = ", ".join(f"{major}.{minor}" for major, minor in self.pythons)
            has = f"{probe.implementation} {probe.python[0]}.{probe.python[1]}"
            return f"is built for CPython {built}; the device has {has}"
        if probe.architecture not in self.glibc:
            return f"is built for {', '.join(self.glibc)}; the device's userland is {probe.architecture}"
        if probe.libc[0] != "glibc" or _version(probe.libc[1]) < self.glibc[probe.architecture]:
            needed = ".".join(map(str, self.glibc[probe.architecture]))
            return f"needs glibc {needed} or later; the device has {probe.c_library}"
        return ""


# In the order in which `auto` prefers them.
RUNTIMES = (
    Runtime(
        "tflite-runtime",
        ("tflite-runtime==2.14.0", "numpy>=1.23,<2"),
        ((3, 9), (3, 10), (3, 11)),
        {"x86_64": (2, 17), "aarch64": (2, 34), "armv7l": (2, 34)},
    ),
    Runtime(
        "ai-edge-litert",
        ("ai-edge-litert==2.3.0", "numpy>=1.26,<3"),
        ((3, 10), (3, 11), (3, 12), (3, 13), (3, 14)),
        {"x86_64": (2, 27), "aarch64": (2, 27)},
        (
            "ai_edge_litert/libLiteRtWebGpuAccelerator.so",
            "ai_edge_litert/libLiteRt.so",
            "ai_edge_litert/tools",
            "ai_edge_litert/vendors",
            "ai_edge_litert/aot",
            "ai_edge_litert/schema_py_generated.py",
        ),
    ),
)


def not_sent(wanted: str) -> str:
    """Why a runtime is never sent to a device; empty where it is."""
    if wanted == "auto" or any(runtime.name == wanted for runtime in RUNTIMES):
        return ""
    return f"{wanted} is not sent to devices, it serves where their own Python has it"


def choose(wanted: str, probe: Probe) -> Runtime:
    """The runtime of that name, or for `auto` the first that fits; raises `TargetError` saying why none does."""
    found, misfits = _first(wanted, probe)
    if found is None:
        raise TargetError("no TFLite runtime fits the device: " + "; ".join(misfits))
    return found


def passed_over(wanted: str, probe: Probe) -> str:
    """Why `auto` did not take those that it prefers to the one chosen; empty where it took the first."""
    return "; ".join(_first(wanted, probe)[1])


def _first(wanted: str, probe: Probe) -> tuple[Runtime | None, list[str]]:
    """The first that fits, and why those before it do not."""
    misfits = list(filter(None, [not_sent(wanted)]))
    for runtime in RUNTIMES:
        if wanted in ("auto", runtime.name):
            misfit = runtime.misfit(probe)
            if not misfit:
                return runtime, misfits
            misfits.append(f"{runtime.name} {misfit}")
    return None, misfits


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())

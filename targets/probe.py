"""Ask a device what it is, before anything of ours is on it."""

from __future__ import annotations

import json

from pydantic import BaseModel, ConfigDict, ValidationError

from targets.cores import Core, kind_of
from targets.errors import TargetError
from targets.transports import Transport

# The userland decides which binaries fit, not `uname -m`: a 64-bit kernel may carry a 32-bit system.
SCRIPT = """
import hashlib, json, os, platform, struct, sys
def digest(path):
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return None
def features():
    try:
        with open("/proc/cpuinfo") as file:
            return sorted({word for line in file if line.startswith("Features") for word in line.split()[2:]})
    except OSError:
        return None
print(json.dumps({
    "python": list(sys.version_info[:3]),
    "implementation": sys.implementation.name,
    "machine": platform.machine(),
    "bits": struct.calcsize("P") * 8,
    "system": sys.platform,
    "libc": list(platform.libc_ver()),
    "features": features(),
    "agent": digest(sys.argv[1]),
    "root": hasattr(os, "geteuid") and os.geteuid() == 0,
}))
"""


class Probe(BaseModel):
    """What a device's Python says of itself and of the system around it; `features` are those of an Arm core (None: it
    does not tell), `agent` is the sha256 of the agent there. `root`: whoever logs in may do anything, and so may a
    model's code.
    """

    model_config = ConfigDict(frozen=True)

    python: tuple[int, int, int]
    implementation: str
    machine: str
    bits: int
    system: str
    libc: tuple[str, str]
    features: tuple[str, ...] | None = None
    agent: str | None
    root: bool = False

    @property
    def core(self) -> Core | None:
        """The kind of its cores; None where it is no kind we know."""
        return kind_of(self.machine, None if self.features is None else " ".join(self.features))

    @property
    def architecture(self) -> str:
        """The userland's, in the words of Python's platform tags."""
        names = {
            ("aarch64", 64): "aarch64",
            ("arm64", 64): "aarch64",
            ("aarch64", 32): "armv7l",
            ("amd64", 64): "x86_64",
            ("x86_64", 32): "i686",
            ("armv8l", 32): "armv7l",
        }
        return names.get((self.machine.lower(), self.bits), self.machine)

    @property
    def sentence(self) -> str:
        """`CPython 3.11.2, aarch64, glibc 2.36`."""
        python = ".".join(map(str, self.python))
        return f"{self.implementation} {python}, {self.architecture}, {self.c_library}"

    @property
    def c_library(self) -> str:
        """`glibc 2.36`."""
        return " ".join(self.libc).strip() or "another C library"


def probe(transport: Transport, python: str, agent: str, deadline_s: float = 30) -> Probe:
    """Run the probe with the device's `python`; `agent` is the path where the agent would lie.

    Raises `TargetError` when there is no usable Python.
    """
    done = transport.run([python, "-I", "-c", SCRIPT, agent], deadline_s=deadline_s)
    if done.returncode in (126, 127):
        raise TargetError(
            f"the device has no {python!r} that starts",
            "install Python 3.9 or later there, or name it with the target's 'python:'",
        )
    try:
        found = Probe.model_validate(json.loads(done.stdout))
    except (ValueError, ValidationError):
        said = (done.stderr or done.stdout).decode(errors="replace").strip()[-300:]
        raise TargetError(
            f"the device's {python!r} did not answer as a Python does (exit {done.returncode}): {said}"
        ) from None
    if found.python < (3, 9, 0):
        raise TargetError(
            f"the device's Python is {'.'.join(map(str, found.python))}", "the agent needs 3.9 or later"
        )
    return found

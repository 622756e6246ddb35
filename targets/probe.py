"""Ask a device what it is, before anything of ours is on it. A shell answers; its Python too, where it has one."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from targets.cores import Core, kind_of
from targets.errors import TargetError
from targets.transports import Transport

# The userland decides which binaries fit, not `uname -m`: a 64-bit kernel may carry a 32-bit system.
PYTHON_SCRIPT = """
import sys
sys.path[:] = [folder for folder in sys.path if folder]
import hashlib, json, os, platform, struct
def digest(path):
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return None
def runtimes():
    from importlib import metadata, util
    def version(name):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return "of an unknown version"
    return {name: version(name) for name in ("tflite-runtime", "ai-edge-litert", "tensorflow")
            if util.find_spec(name.replace("-", "_"))}
print(json.dumps({
    "python": list(sys.version_info[:3]),
    "implementation": sys.implementation.name,
    "machine": platform.machine(),
    "bits": struct.calcsize("P") * 8,
    "system": sys.platform,
    "libc": list(platform.libc_ver()),
    "agent": digest(sys.argv[1]),
    "runtimes": runtimes(),
}))
"""
# For any POSIX shell (bash, dash, mksh, BusyBox), with no tool that a phone lacks. Arguments: Python, agent's path,
# script for Python. Prints `key value` lines; from `python` on, Python's exit code and all that it said.
SHELL_SCRIPT = r"""
say() { printf '%s %s\n' "$1" "$2"; }
say machine "$(uname -m)"
say system "$(uname -s)"
say user "$(id -u 2>/dev/null)"
say home "$HOME"
class=$(dd if=/proc/$$/exe bs=1 skip=4 count=1 2>/dev/null)
[ "$class" = "$(printf '\001')" ] && say bits 32
[ "$class" = "$(printf '\002')" ] && say bits 64
if [ -e /system/bin/linker64 ] || [ -e /system/bin/linker ]; then say libc bionic
elif libc=$(getconf GNU_LIBC_VERSION 2>/dev/null); then say libc "$libc"
else for loader in /lib/ld-musl-*; do [ -e "$loader" ] && say libc musl; done
fi
while read -r key rest; do
  case $key in Features|flags) say features "$rest"; break;; esac
done 2>/dev/null </proc/cpuinfo
df -Pk . 2>/dev/null | { read -r line; read -r disk all used free rest && say free_kib "$free"; }
say agent "$(sha256sum <"$2" 2>/dev/null)"
answer=$("$1" -c "$3" "$2" 2>&1)
printf 'python %s %s' "$?" "$answer"
"""
OLDEST_PYTHON = (3, 9, 0)


class Probe(BaseModel):
    """What a device says of itself: its Python's version and words where there is a usable one, else its shell's.

    `python` is None where none is usable, and `python_problem` says why. `agent` is the sha256 of the agent there,
    `runtimes` the versions of those that its Python can import, `features` what `/proc/cpuinfo` says of its cores.
    `root`: whoever logs in may do anything, and so may a model's code.
    """

    model_config = ConfigDict(frozen=True)

    python: tuple[int, int, int] | None = None
    python_problem: str = ""
    implementation: str = ""
    machine: str
    bits: int
    system: str
    libc: tuple[str, str]
    agent: str | None = None
    runtimes: dict[str, str] = {}
    features: str | None = None
    home: str | None = None
    free_kib: int | None = None
    root: bool = False

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
    def core(self) -> Core | None:
        """The kind of its cores; None where it does not say, or it is no kind we know."""
        return kind_of(self.machine, self.features)

    @property
    def sentence(self) -> str:
        """`cpython 3.11.2, aarch64, glibc 2.36`."""
        python = (
            "no Python" if self.python is None else f"{self.implementation} {'.'.join(map(str, self.python))}"
        )
        return f"{python}, {self.architecture}, {self.c_library}"

    @property
    def c_library(self) -> str:
        """`glibc 2.36`."""
        return " ".join(self.libc).strip() or "another C library"


def probe(transport: Transport, python: str, agent: str, deadline_s: float = 30) -> Probe:
    """Run the probe; `python` is the command that may start the device's, `agent` the path where the agent would lie.

    Raises `TargetError` when there is not even a POSIX shell.
    """
    argv = ["sh", "-c", SHELL_SCRIPT, "sh", python, agent, PYTHON_SCRIPT]
    done = transport.run(argv, deadline_s=deadline_s)
    told, mark, answer = ("\n" + done.stdout.decode(errors="replace")).partition("\npython ")
    if not mark:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()[-300:]
        raise TargetError(
            f"the device's shell did not answer the probe (exit {done.returncode}): {said or 'it said nothing'}",
            "expected a POSIX sh",
        )
    fields = _of_shell(dict(line.partition(" ")[::2] for line in told.splitlines()))
    status, _, said = answer.partition(" ")
    fields |= _of_python(python, int(status), said, fields)
    try:
        return Probe.model_validate(fields)
    except ValidationError as error:
        raise TargetError(f"the device's answer to the probe makes no sense: {error}") from None


def _of_shell(told: dict[str, str]) -> dict[str, Any]:
    machine = told.get("machine", "")
    name, _, version = told.get("libc", "").partition(" ")
    hexadecimal = told.get("agent", "").split(" ")[0]
    return {
        "machine": machine,
        "bits": int(told["bits"]) if "bits" in told else 64 if "64" in machine else 32,
        "system": told.get("system", "").lower(),
        "libc": (name, version),
        "agent": hexadecimal if len(hexadecimal) == 64 else None,
        "features": told["features"].lstrip(": ") if "features" in told else None,
        "home": told.get("home") or None,
        "free_kib": int(told["free_kib"]) if told.get("free_kib", "").isdigit() else None,
        "root": told.get("user") == "0",
    }


def _of_python(python: str, status: int, said: str, shell: dict[str, Any]) -> dict[str, Any]:
    """What Python adds, and corrects: it knows its own width and C library."""
    if status in (126, 127):
        return {"python_problem": f"the device has no {python!r} that starts (3.9 or later serves)"}
    try:
        fields: dict[str, Any] = json.loads(said.splitlines()[-1])
        version = tuple(fields["python"])
    except (ValueError, IndexError, KeyError, TypeError):
        problem = (
            f"the device's {python!r} did not answer as a Python does (exit {status}): {said.strip()[-300:]}"
        )
        return {"python_problem": problem}
    if version < OLDEST_PYTHON:
        written = ".".join(map(str, version))
        return {"python_problem": f"the device's Python is {written}; the agent needs 3.9 or later"}
    if shell["libc"][0] == "bionic" or not fields["libc"][0]:
        fields["libc"] = shell["libc"]
    return fields

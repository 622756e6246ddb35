"""A bundle: a TFLite runtime and its numpy in one archive, built on the host for a device's Python and platform.

The device needs neither pip nor a network. A bundle is named by its content, so that it travels once.
"""

from __future__ import annotations

import fnmatch
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from targets.errors import TargetError
from targets.places import state_folder
from targets.probe import Probe
from targets.provisioning import Ground, Provisioned, Say
from targets.provisioning.runtimes import Runtime, choose
from targets.provisioning.trees import Bundle, kept, tree_digest
from targets.target import TargetBase, python_of

__all__ = ["build_bundle", "fetch", "misfit", "provide", "tree_digest", "trim"]

NEVER_NEEDED = ("*/tests", "*.pyi", "*/__pycache__", "bin", "numpy/f2py", "numpy/distutils", "numpy/doc")
OLDEST_MANYLINUX = 17
_LONG_S = 900.0


def misfit(target: TargetBase, probe: Probe) -> str:
    """Why no bundle fits the device; empty when one does."""
    if probe.python is None:
        return probe.python_problem
    try:
        choose(target.runtime, probe)
    except TargetError as error:
        return error.message
    return ""


def runtime(target: TargetBase, probe: Probe) -> str:
    """The one whose bundle is sent."""
    return choose(target.runtime, probe).name


def provide(ground: Ground, say: Say) -> Provisioned:
    """Send the bundle unless it is there, verified by the device."""
    runtime = choose(ground.target.runtime, ground.probe)
    bundle = build_bundle(runtime, ground.probe)
    folder = f"{ground.target.workdir}/bundles/{bundle.digest[:16]}"
    python = (python_of(ground.target),)
    found = ground.ask_with(python, "verify", _LONG_S, folder=folder, digest=bundle.digest)
    if not found[-1]["ok"]:
        say(f"sending {runtime.name} ({bundle.archive.stat().st_size / 1e6:.0f} MB)")
        archive, lock = f"{folder}.tar.gz", f"{ground.target.workdir}/lock"
        ground.bring(bundle.archive, archive)
        ground.ask_with(
            python, "unpack", _LONG_S, archive=archive, into=folder, digest=bundle.digest, lock=lock
        )
    return Provisioned(runtime.name, folder, bundle.digest, python)


def build_bundle(runtime: Runtime, probe: Probe) -> Bundle:
    """The bundle of `runtime` for the device that `probe` describes, from the host's cache or fetched anew.

    Raises `TargetError` when the packages cannot be had.
    """
    assert probe.python is not None
    python = f"{probe.python[0]}.{probe.python[1]}"
    what = [*runtime.requirements, python, probe.architecture, *probe.libc, *runtime.unneeded, *NEVER_NEEDED]
    key = hashlib.sha256("\0".join(what).encode()).hexdigest()[:16]
    folder = state_folder() / "bundles" / f"{runtime.name}-cp{python}-{probe.architecture}-{key}"

    def fill(tree: Path) -> None:
        fetch(runtime, probe, tree)

    return kept(folder, fill)


def fetch(runtime: Runtime, probe: Probe, tree: Path) -> None:
    """Put the runtime's packages and numpy, for the Python and platform that `probe` describes, into a new folder.

    Raises `TargetError` when they cannot be had.
    """
    assert probe.python is not None
    python = f"{probe.python[0]}{probe.python[1]}"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--target", str(tree), "--no-compile", "--implementation", "cp"]
    command += ["--python-version", python, "--abi", f"cp{python}"]
    command += [f"--platform={tag}" for tag in _platform_tags(probe)]
    done = subprocess.run([*command, *runtime.requirements], capture_output=True, text=True, check=False)
    if done.returncode:
        said = [
            line for line in done.stderr.splitlines() if line.startswith("ERROR")
        ] or done.stderr.splitlines()[-1:]
        raise TargetError(
            f"the packages of {runtime.name} for {probe.sentence} could not be fetched: {' '.join(said)}",
            "pip finds numpy for 32-bit Arm only where its configuration names piwheels (extra-index-url)"
            if probe.architecture == "armv7l"
            else "check the network; once fetched they are kept",
        )
    trim(tree, (*NEVER_NEEDED, *runtime.unneeded))


def _platform_tags(probe: Probe) -> Iterator[str]:
    newest = int(probe.libc[1].split(".")[1])
    for minor in range(newest, OLDEST_MANYLINUX - 1, -1):
        yield f"manylinux_2_{minor}_{probe.architecture}"
    yield f"manylinux2014_{probe.architecture}"
    if probe.architecture == "armv7l":
        yield "linux_armv7l"


def trim(tree: Path, unneeded: tuple[str, ...]) -> None:
    """Remove what matches a pattern, by its path in the tree."""
    for path in sorted(tree.rglob("*"), reverse=True):
        name = path.relative_to(tree).as_posix()
        if any(fnmatch.fnmatch(name, pattern) for pattern in unneeded):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

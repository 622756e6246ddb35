"""A bundle: a TFLite runtime and its numpy in one archive, built on the host for a device's Python and platform.

The device needs neither pip nor a network. A bundle is named by its content, so that it travels once.
"""

from __future__ import annotations

import fnmatch
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from targets.errors import TargetError
from targets.places import state_folder
from targets.probe import Probe
from targets.provisioning.runtimes import Runtime

NEVER_NEEDED = ("*/tests", "*.pyi", "*/__pycache__", "bin", "numpy/f2py", "numpy/distutils", "numpy/doc")
OLDEST_MANYLINUX = 17


@dataclass(frozen=True)
class Bundle:
    """A bundle on the host; `digest` is of the tree that the archive holds, see `tree_digest`."""

    archive: Path
    digest: str


def build_bundle(runtime: Runtime, probe: Probe) -> Bundle:
    """The bundle of `runtime` for the device that `probe` describes, from the host's cache or fetched anew.

    Raises `TargetError` when the packages cannot be had.
    """
    python = f"{probe.python[0]}.{probe.python[1]}"
    what = [*runtime.requirements, python, probe.architecture, *probe.libc, *runtime.unneeded, *NEVER_NEEDED]
    key = hashlib.sha256("\0".join(what).encode()).hexdigest()[:16]
    folder = state_folder() / "bundles" / f"{runtime.name}-cp{python}-{probe.architecture}-{key}"
    found = _read(folder)
    if found is None:
        shutil.rmtree(folder, ignore_errors=True)
        _build(runtime, probe, folder)
        found = _read(folder)
    if found is None:
        raise TargetError(f"the bundle in {folder} is damaged", "remove the folder and run again")
    return found


def _read(folder: Path) -> Bundle | None:
    """The bundle in `folder`, its archive verified; None when there is none, or a damaged one."""
    try:
        about = json.loads((folder / "bundle.json").read_bytes())
        with (folder / "bundle.tar.gz").open("rb") as archive:
            whole = hashlib.file_digest(archive, "sha256").hexdigest() == about["archive"]
        return Bundle(folder / "bundle.tar.gz", about["digest"]) if whole else None
    except (OSError, ValueError, KeyError):
        return None


def tree_digest(folder: Path) -> str:
    """sha256 over `path NUL sha256 LF` of each file below `folder`, sorted; the device computes the same."""
    digest = hashlib.sha256()
    for path in _files(folder):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def _build(runtime: Runtime, probe: Probe, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part-") as temporary:
        tree, made = Path(temporary, "tree"), Path(temporary, "made")
        _fetch(runtime, probe, tree)
        _trim(tree, runtime.unneeded)
        made.mkdir()
        _pack(tree, made / "bundle.tar.gz")
        about = {
            "digest": tree_digest(tree),
            "archive": hashlib.sha256((made / "bundle.tar.gz").read_bytes()).hexdigest(),
            "packages": sorted(path.name for path in tree.glob("*.dist-info")),
        }
        (made / "bundle.json").write_text(json.dumps(about, indent=1))
        try:
            os.rename(made, folder)
        except OSError:
            # Another process was faster; what it built serves as well.
            if _read(folder) is None:
                raise


def _fetch(runtime: Runtime, probe: Probe, tree: Path) -> None:
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


def _platform_tags(probe: Probe) -> Iterator[str]:
    newest = int(probe.libc[1].split(".")[1])
    for minor in range(newest, OLDEST_MANYLINUX - 1, -1):
        yield f"manylinux_2_{minor}_{probe.architecture}"
    yield f"manylinux2014_{probe.architecture}"
    if probe.architecture == "armv7l":
        yield "linux_armv7l"


def _trim(tree: Path, unneeded: tuple[str, ...]) -> None:
    for path in sorted(tree.rglob("*"), reverse=True):
        name = path.relative_to(tree).as_posix()
        if any(fnmatch.fnmatch(name, pattern) for pattern in (*NEVER_NEEDED, *unneeded)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _pack(tree: Path, archive: Path) -> None:
    with (
        archive.open("wb") as raw,
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for path in _files(tree):
            entry = tarfile.TarInfo(path.relative_to(tree).as_posix())
            entry.size = path.stat().st_size
            entry.mode = 0o755 if path.suffix == ".so" or ".so." in path.name else 0o644
            with path.open("rb") as content:
                tar.addfile(entry, content)


def _files(folder: Path) -> list[Path]:
    found = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())

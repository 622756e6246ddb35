"""A Python, the C library under it and a runtime in one folder: for devices that have no Python, or no glibc.

It starts through the loader it carries, and takes nothing from the device but the kernel:

PORTABLE/ld.so                 glibc's loader
PORTABLE/lib/*.so.*            the C and C++ libraries
PORTABLE/lib/python3.11/       the standard library
PORTABLE/bin/python3.11
PORTABLE/runtime/              numpy and the runtime, as in a bundle

No environment variable is set: what a program started from the agent sees is what the device has.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
import tempfile
from pathlib import Path

from targets import debian
from targets.errors import TargetError
from targets.places import state_folder
from targets.probe import Probe
from targets.provisioning import Ground, Provisioned, Say, bundle, glibc, trial
from targets.provisioning.runtimes import Runtime, choose, not_sent
from targets.provisioning.trees import Bundle, kept
from targets.target import TargetBase

SUITE = "bookworm"
PYTHON = (3, 11, 2)
PACKAGES = (
    "libc6",
    "libgcc-s1",
    "libstdc++6",
    "libexpat1",
    "zlib1g",
    "libffi8",
    "libpython3.11-stdlib",
    "python3.11-minimal",
)
LIBRARIES = (
    *("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1"),
    *("libgcc_s.so.1", "libstdc++.so.6", "libexpat.so.1", "libz.so.1", "libffi.so.8"),
)
# By the kernel's name of the machine: Debian's name, the folder of its libraries, its loader.
ARCHITECTURES = {
    "aarch64": ("arm64", "aarch64-linux-gnu", "ld-linux-aarch64.so.1"),
    "x86_64": ("amd64", "x86_64-linux-gnu", "ld-linux-x86-64.so.2"),
}
# Of the standard library: what neither the agent nor numpy imports, and modules whose libraries are not carried.
UNUSED = (
    *(
        "asyncio",
        "concurrent",
        "config-3.11-*",
        "curses",
        "dbm",
        "distutils",
        "ensurepip",
        "idlelib",
        "lib2to3",
    ),
    *("msilib", "pydoc_data", "sqlite3", "test", "tkinter", "turtledemo", "venv", "wsgiref", "xmlrpc"),
    *("LICENSE.txt", "sitecustomize.py", "turtle.py", "pydoc.py", "lib-dynload/_test*", "lib-dynload/xx*"),
    *("lib-dynload/_codecs_*", "lib-dynload/_curses*", "lib-dynload/_sqlite3*", "lib-dynload/_ssl*"),
    *("lib-dynload/_hashlib*", "lib-dynload/readline*", "lib-dynload/_dbm*", "lib-dynload/nis*"),
    *("lib-dynload/_bz2*", "lib-dynload/_lzma*", "lib-dynload/_crypt*", "lib-dynload/_uuid*"),
    *("lib-dynload/_ctypes_test*", "lib-dynload/ossaudiodev*", "lib-dynload/_asyncio*"),
)
_UNPACK = 'set -e; umask 077; mkdir -p "$2"; exec tar -xzf "$1" -C "$2"'
_PLACE = (
    'rm -f "$1"; [ ! -e "$3" ] || mv "$3" "$2.old"; mv "$2" "$3"; status=$?; rm -rf "$2.old"; exit $status'
)
_SHORT_S = 60.0
_LONG_S = 900.0


def misfit(target: TargetBase, probe: Probe) -> str:
    """Why it cannot run there; empty when it can. The kernel decides: a 32-bit system on a 64-bit kernel will do."""
    if probe.system != "linux":
        return f"it runs on Linux only; the device has {probe.system}"
    if probe.machine not in ARCHITECTURES:
        return f"it is built for {', '.join(ARCHITECTURES)}; the device's kernel is {probe.machine}"
    return not_sent(target.runtime)


def runtime(target: TargetBase, probe: Probe) -> str:
    """The one for the Python that is sent."""
    return choose(target.runtime, inside(probe.machine)).name


def provide(ground: Ground, say: Say) -> Provisioned:
    """Send it unless it is there; its own Python verifies it before it takes its name."""
    content = inside(ground.probe.machine)
    runtime = choose(ground.target.runtime, content)
    built = build_portable(runtime, content, say)
    folder = f"{ground.target.workdir}/bundles/{built.digest[:16]}"
    if not _is_whole(ground, folder, built.digest):
        say(f"sending Python and {runtime.name} ({built.archive.stat().st_size / 1e6:.0f} MB)")
        _send(ground, built, folder, runtime)
    return Provisioned(runtime.name, f"{folder}/runtime", built.digest, command(folder))


def command(folder: str) -> tuple[str, ...]:
    """What starts the Python in `folder`, isolated from the device's settings."""
    return (f"{folder}/ld.so", "--library-path", f"{folder}/lib", f"{folder}/bin/python3.11", "-I")


def inside(machine: str) -> Probe:
    """The portable Python as a probe would describe it."""
    return Probe(
        python=PYTHON,
        implementation="cpython",
        machine=machine,
        bits=64,
        system="linux",
        libc=("glibc", "2.36"),
    )


def build_portable(runtime: Runtime, content: Probe, say: Say) -> Bundle:
    """The archive for a machine, from the host's cache or built anew (about 30 s). Raises `TargetError`."""
    parts = [*runtime.requirements, content.machine, SUITE, *PACKAGES, *LIBRARIES, *UNUSED, glibc.REVISION]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    folder = state_folder() / "bundles" / f"portable-{runtime.name}-{content.machine}-{key}"

    def fill(tree: Path) -> None:
        say(f"putting a Python for {content.machine} together, once")
        _fill(tree, runtime, content)

    return kept(folder, fill)


def _fill(tree: Path, runtime: Runtime, content: Probe) -> None:
    architecture, libraries, loader = ARCHITECTURES[content.machine]
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary, "root")
        debian.unpack(PACKAGES, SUITE, architecture, root, "get the portable Python's Debian packages")
        (tree / "lib").mkdir(parents=True)
        (tree / "bin").mkdir()
        for name in (loader, *LIBRARIES):
            found = next(
                path
                for path in (root / "lib" / libraries / name, root / "usr/lib" / libraries / name)
                if path.exists()
            )
            place = tree / "ld.so" if name == loader else tree / "lib" / name
            place.write_bytes(glibc.without_system_calls(found.read_bytes()))
            place.chmod(0o755)
        shutil.copy(root / "usr/bin/python3.11", tree / "bin")
        shutil.copytree(root / "usr/lib/python3.11", tree / "lib/python3.11", ignore=_ignored)
    bundle.fetch(runtime, content, tree / "runtime")
    bundle.trim(tree / "lib/python3.11", UNUSED)
    for path in (tree / "runtime").glob("numpy.libs/*.so*"):
        path.write_bytes(glibc.without_system_calls(path.read_bytes()))


def _ignored(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name == "__pycache__" or Path(folder, name).is_symlink()]


def _is_whole(ground: Ground, folder: str, digest: str) -> bool:
    """Whether the device has it, by its own Python; one that does not start is not whole."""
    try:
        found = ground.ask_with(command(folder), "verify", _LONG_S, folder=folder, digest=digest)
    except TargetError:
        return False
    return bool(found[-1]["ok"])


def _send(ground: Ground, built: Bundle, folder: str, runtime: Runtime) -> None:
    archive, fresh = f"{folder}.tar.gz", f"{folder}.partial-{secrets.token_hex(4)}"
    ground.bring(built.archive, archive)
    try:
        _sh(ground, _UNPACK, [archive, fresh], "unpack the portable Python")
        try:
            found = ground.ask_with(command(fresh), "verify", _LONG_S, folder=fresh, digest=built.digest)
        except TargetError as error:
            trial.refuse_forbidden(ground, command(fresh))
            raise TargetError(
                f"the portable Python does not start on the device: {error.message}",
                "name a folder from which programs may run with the target's 'workdir:'",
            ) from None
        if not found[-1]["ok"]:
            raise TargetError("the portable Python arrived damaged", "run again")
        trial.try_out(ground, command(fresh), runtime.name, f"{fresh}/runtime")
        _sh(ground, _PLACE, [archive, fresh, folder], "put the portable Python in place")
    finally:
        ground.run(["rm", "-rf", fresh], _SHORT_S)


def _sh(ground: Ground, script: str, arguments: list[str], doing: str) -> None:
    status, said = ground.run(["sh", "-c", script, "sh", *arguments], _LONG_S)
    if status != 0:
        raise TargetError(
            f"could not {doing} (exit {status}): {said.strip()[-500:]}",
            "it takes a tar that knows gzip (toybox, BusyBox, GNU), and free space",
        )

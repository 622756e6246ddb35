"""The userland of a phone: mksh, toybox and dropbear under /system, a home as Termux has it, and nothing else.

Debian's builds are dynamic over glibc, where a phone's are over bionic. So their loader lies where Android's does and
finds its libraries in a folder of its own, and nobody else's: an ordinary glibc program does not start. There is no
/bin, no /tmp and no Python, and no SFTP server.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from targets import debian
from targets.emulation.devices import Device

PACKAGES = ("mksh", "toybox", "dropbear-bin", "busybox-static")
# Android's toybox has them, Debian's is built without: BusyBox's stand in.
LACKING = ("dd", "tar")
LIBRARIES = (
    *("libc.so.6", "libm.so.6", "libcrypt.so.1", "libz.so.1"),
    *("libtomcrypt.so.1", "libtommath.so.1", "libgmp.so.10"),
)
READY = "Not backgrounding"
HOME = "/data/data/com.termux/files/home"
_USER_ID = 10123
_TRIPLET = "aarch64-linux-gnu"
_LOADER = "system/bin/linker64"
# Each as long as what it replaces, or filled up with zeros.
_IN_PROGRAMS = {
    b"/lib/ld-linux-aarch64.so.1\0": b"/system/bin/linker64\0",
    b"/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games\0": b"/system/bin\0",
    b"/usr/bin:/bin\0": b"/system/bin\0",
}
_LIBRARY_FOLDER = "/system/lib64/userland/"
_IN_LOADER = {f"/lib/{_TRIPLET}/\0".encode(): f"{_LIBRARY_FOLDER}\0".encode()}
_NODES = ("null", "zero", "full", "random", "urandom", "tty", "ptmx")


def server(device: Device) -> tuple[str, ...]:
    """The SSH server as the device's first process; sessions inherit its environment, where the emulator looks."""
    keys = ("-r", "/data/local/dropbear_ed25519_host_key")
    return (
        "/system/bin/dropbear",
        "-F",
        "-E",
        "-e",
        "-s",
        "-w",
        "-j",
        "-k",
        *keys,
        "-p",
        f"127.0.0.1:{device.port}",
    )


def fill(device: Device, folder: Path) -> str:
    """Fill `folder/rootfs`; returns the server's public key. Raises `TargetError`. About 10 s and 12 MB."""
    root = folder / "rootfs"
    for name in ("system/bin", "dev/pts", "proc", "sys", "etc", "data/local", _LIBRARY_FOLDER.strip("/")):
        (root / name).mkdir(parents=True)
    for name in _NODES:
        (root / "dev" / name).touch()
    root.chmod(0o755)
    _add_programs(device, root)
    _add_account(device, root, (folder / "id_ed25519.pub").read_text())
    return _host_key(root)


def _add_programs(device: Device, root: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        unpacked = Path(temporary, "root")
        debian.unpack(PACKAGES, device.suite, "arm64", unpacked, "download the device's Debian packages")
        programs = {"sh": "bin/mksh", "toybox": "bin/toybox", "dropbear": "usr/sbin/dropbear"}
        programs["dropbearkey"] = "usr/bin/dropbearkey"
        for name, source in programs.items():
            _edit(unpacked / source, root / "system/bin" / name, _IN_PROGRAMS)
        _edit(_library(unpacked, "ld-linux-aarch64.so.1"), root / _LOADER, _IN_LOADER)
        for name in LIBRARIES:
            shutil.copy(_library(unpacked, name), root / _LIBRARY_FOLDER.strip("/") / name)
        shutil.copy(unpacked / "bin/busybox", root / "system/bin/.busybox")
        for tool in LACKING:
            (root / "system/bin" / tool).symlink_to(".busybox")
    tools = debian.call(["chroot", str(root), "/system/bin/toybox"], "run toybox on the emulated device")
    for tool in tools.split():
        if not (root / "system/bin" / tool).exists():
            (root / "system/bin" / tool).symlink_to("toybox")


def _library(unpacked: Path, name: str) -> Path:
    places = (unpacked / "lib" / _TRIPLET / name, unpacked / "usr/lib" / _TRIPLET / name)
    return next(path for path in places if path.exists())


def _edit(source: Path, destination: Path, replaced: dict[bytes, bytes]) -> None:
    content = source.read_bytes()
    for old, new in replaced.items():
        content = content.replace(old, new.ljust(len(old), b"\0"))
    destination.write_bytes(content)
    destination.chmod(0o755)


def _add_account(device: Device, root: Path, key: str) -> None:
    etc = root / "etc"
    (etc / "passwd").write_text(
        f"root:x:0:0::/:/system/bin/sh\n{device.user}:x:{_USER_ID}:{_USER_ID}::{HOME}:/system/bin/sh\n"
    )
    (etc / "group").write_text(f"root:x:0:\n{device.user}:x:{_USER_ID}:\n")
    (etc / "shadow").write_text(f"{device.user}:*:19000:0:99999:7:::\n")
    (etc / "shadow").chmod(0o600)
    (etc / "shells").write_text("/system/bin/sh\n")
    home = root / HOME.strip("/")
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh/authorized_keys").write_text(key)
    for path in (home, home / ".ssh", home / ".ssh/authorized_keys"):
        os.chown(path, _USER_ID, _USER_ID)
        path.chmod(0o600 if path.is_file() else 0o700)


def _host_key(root: Path) -> str:
    place = "/data/local/dropbear_ed25519_host_key"
    make = ["chroot", str(root), "/system/bin/dropbearkey", "-t", "ed25519", "-f", place]
    said = debian.call(make, "make the device's host key")
    return next(line for line in said.splitlines() if line.startswith("ssh-ed25519 "))

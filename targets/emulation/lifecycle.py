"""Brings emulated devices up and down. What runs is read from the kernel: there is no record to go stale."""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from targets.emulation import machine, rootfs
from targets.emulation.devices import ADDRESS, DEVICES, Device
from targets.errors import TargetError
from targets.places import state_folder
from targets.transports import ssh

_READY_DEADLINE_S = 60.0
_END_DEADLINE_S = 20.0

_OWN_SESSION = ("setsid", "--fork")
_OWN_NAMESPACES = ("unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child")

# The first process of the device, in namespaces of its own: its mounts and all processes go when it goes.
_BOOT = """
set -e
cd "$1"
hostname "$2"
mount -t proc proc proc
mount --bind etc/cpuinfo proc/cpuinfo
for node in null zero full random urandom tty; do mount --bind "/dev/$node" "dev/$node"; done
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts dev/pts
mount --bind dev/pts/ptmx dev/ptmx
[ ! -d dev/shm ] || mount -t tmpfs -o mode=1777 tmpfs dev/shm
shift 2
exec chroot . "$@"
"""


@dataclass(frozen=True)
class Status:
    """Whether a device takes logins; `detail` is where (up) or why not (down, broken)."""

    name: str
    state: Literal["up", "down", "broken"]
    detail: str


def names() -> list[str]:
    """The emulated devices there are."""
    return sorted(DEVICES)


def up(name: str, *, port: int | None = None) -> None:
    """Return when the device takes logins; at once when it does already. The first time takes about 20 s.

    What is dead is restarted, what does not start or was built from another description is built anew.
    `port` replaces the described one, for a second instance under another state folder.
    """
    device = _described(name)
    device = replace(device, port=port) if port is not None else device
    folder = _folder(name)
    with _devices_folder_locked():
        built = rootfs.built_from(folder) == device
        if built:
            with suppress(TargetError):
                _log_in(device, folder)
                return
        machine.require_root("up", name)
        machine.require_emulator()
        if built:
            _end(folder)
            with suppress(TargetError):
                _start(device, folder)
                return
        _erase(folder)
        unfinished = folder.with_name(f".{name}.part")
        _erase(unfinished)
        rootfs.build(device, unfinished)
        machine.hand_over(unfinished, unfinished / "id_ed25519", unfinished / "known_hosts")
        unfinished.rename(folder)
        _start(device, folder)


def down(name: str) -> None:
    """End every process of the device and remove its folder; harmless when there is none."""
    _described(name)
    machine.require_root("down", name)
    with _devices_folder_locked():
        _erase(_folder(name))
        _erase(_folder(name).with_name(f".{name}.part"))


def status(name: str) -> Status:
    """Ask the device itself, by a login."""
    _described(name)
    folder = _folder(name)
    device = rootfs.built_from(folder)
    if device is None:
        return Status(name, "down", f"{folder} holds no device; start it with: make devices")
    try:
        _log_in(device, folder)
    except TargetError as error:
        return Status(name, "broken", str(error))
    return Status(name, "up", f"{device.user}@{ADDRESS}:{device.port}")


def processes(name: str) -> list[int]:
    """The process ids of everything that runs in the device, and of the process that holds it."""
    root = str(_folder(name) / "rootfs")
    resolved = os.path.realpath(root)
    booting = b"".join(os.fsencode(word) + b"\0" for word in ("sh", "-c", _BOOT, "sh", root, name))
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended while we looked
            argv = (entry / "cmdline").read_bytes()
            if booting in argv or os.readlink(entry / "root") == resolved:
                found.append(int(entry.name))
    return found


def _described(name: str) -> Device:
    if name not in DEVICES:
        raise TargetError(f"there is no emulated device {name!r}", f"there are: {', '.join(names())}")
    return DEVICES[name]


def _folder(name: str) -> Path:
    return state_folder() / "devices" / name


@contextmanager
def _devices_folder_locked() -> Iterator[None]:
    """Hold two ups and downs apart. The lock is on the folder itself: no file is left behind."""
    folder = state_folder() / "devices"
    machine.make_folder(folder)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _boot_argv(device: Device, root: str) -> list[str]:
    return ["sh", "-c", _BOOT, "sh", root, device.name, *rootfs.server(device)]


def _start(device: Device, folder: Path) -> None:
    """Start the SSH server so that it outlives this process, and return when a login works."""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "QEMU_CPU": device.core.qemu}
    log = folder / "sshd.log"
    with log.open("wb") as output:
        argv = [*_OWN_SESSION, *_OWN_NAMESPACES, *_boot_argv(device, str(folder / "rootfs"))]
        subprocess.run(
            argv, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", check=True
        )
    deadline = time.monotonic() + _READY_DEADLINE_S
    while rootfs.ready(device) not in (said := log.read_text(errors="replace")):
        ended = not processes(device.name)
        if ended or time.monotonic() > deadline:
            raise TargetError(
                f"{device.name} did not come up on port {device.port}; its log says:\n{said.strip()[-2000:]}",
                "is the port taken by another program?" if ended else "is this machine overloaded?",
            )
        time.sleep(0.05)
    _log_in(device, folder)


def _log_in(device: Device, folder: Path) -> None:
    options = ssh.Options(
        host=ADDRESS,
        port=device.port,
        user=device.user,
        key_file=str(folder / "id_ed25519"),
        known_hosts=str(folder / "known_hosts"),
        ssh_config=None,
    )
    connection = ssh.connect(options)
    try:
        connection.run(["true"], deadline_s=10)
    finally:
        connection.close()


def _end(folder: Path) -> None:
    """End every process of the device and wait until they are gone, their mounts with them."""
    deadline = time.monotonic() + _END_DEADLINE_S
    while remaining := processes(folder.name):
        if time.monotonic() > deadline:
            raise TargetError(f"processes {remaining} of {folder.name} do not end")
        for process in remaining:
            with suppress(ProcessLookupError):
                descriptor = os.pidfd_open(process)
                try:
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                    select.select([descriptor], [], [], _END_DEADLINE_S)
                finally:
                    os.close(descriptor)


def _erase(folder: Path) -> None:
    _end(folder)
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    if below := [place for place in mounted if Path(place).is_relative_to(folder.resolve())]:
        raise TargetError(f"{folder} is not removed: {', '.join(below)} is a mount", "unmount it")
    if folder.exists():
        shutil.rmtree(folder)

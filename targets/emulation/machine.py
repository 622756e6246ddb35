"""What this machine must offer to hold an Arm device: root, Debian packages, an emulator the kernel knows."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from targets.errors import TargetError

APT_LINE = (
    "apt-get install --no-install-recommends "
    "qemu-user-static mmdebstrap debian-archive-keyring openssh-client openssh-server"
)
_PROGRAMS = ("mmdebstrap", "ssh-keygen", "unshare", "setsid", "chroot")
_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_REGISTRATION = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")


def require_root(*action: str) -> None:
    """Raise `TargetError` unless this process may mount, chroot and end the device's processes."""
    if os.geteuid() != 0:
        again = [sys.executable, "-m", "targets.emulation", *action]
        raise TargetError(
            f"an emulated device is brought up and down by root, this is user {os.geteuid()}",
            f"run: {shlex.join(['sudo', '--preserve-env=HOME,EDGEPIPE_HOME', *again])}",
        )


def require_emulator() -> None:
    """Make Arm programs run on this machine, or raise `TargetError` with the packages to install."""
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    native = platform.machine() == "aarch64"
    if not native and not _registered() and not _REGISTRATION.exists():
        missing.append(str(_REGISTRATION))
    if missing:
        raise TargetError(f"emulated devices need {', '.join(missing)}", f"run: {APT_LINE}")
    if not native and not _registered():
        _register()


def _registered() -> bool:
    return (_BINFMT / "qemu-aarch64").exists()


def _register() -> None:
    """Tell the kernel which emulator runs Arm programs, as systemd-binfmt does at boot where there is one."""
    try:
        if not (_BINFMT / "register").exists():
            mount = ["mount", "-t", "binfmt_misc", "binfmt_misc", str(_BINFMT)]
            subprocess.run(mount, check=True, capture_output=True)
        if not _registered():
            (_BINFMT / "register").write_bytes(_REGISTRATION.read_bytes().strip())
    except (OSError, subprocess.CalledProcessError) as error:
        raise TargetError(
            f"the kernel took no emulator for Arm programs: {error}",
            "it needs binfmt_misc (modprobe binfmt_misc); in a container: --privileged",
        ) from error


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, owned by whoever called sudo."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    hand_over(*new)


def hand_over(*paths: Path) -> None:
    """Give files made under sudo to the user who called it, whose client must read the private key."""
    user, group = os.environ.get("SUDO_UID"), os.environ.get("SUDO_GID")
    if user and group:
        for path in paths:
            os.chown(path, int(user), int(group))

"""Builds the folder an emulated device lives in: an Arm userland, accounts, keys, an SSH server's settings.

FOLDER/rootfs/       what the device sees as /
FOLDER/id_ed25519    the key that may log in
FOLDER/known_hosts   the device's host key, as SSH clients expect it
FOLDER/device.json   the description it was built from
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path

from targets.emulation.devices import Core, Device
from targets.errors import TargetError

ADDRESS = "127.0.0.1"
BASE_PACKAGES = (
    "bash",
    "coreutils",
    "dash",
    "grep",
    "libstdc++6",
    "openssh-server",
    "openssh-sftp-server",
    "procps",
    "python3",
)
_BUILD_DEADLINE_S = 300.0
_NEVER_IMPORTED = "/(asyncio|distutils|ensurepip|idlelib|lib2to3)/"
_USER_ID = 1000


def build(device: Device, folder: Path) -> None:
    """Fill `folder`, which must not exist, or raise `TargetError`. About 10 s and 190 MB."""
    root = folder / "rootfs"
    folder.mkdir()
    _unpack_userland(device, root)
    _add_accounts(device, root)
    _add_hardware(device, root)
    _add_ssh_server(device, folder)
    (folder / "device.json").write_text(json.dumps(asdict(device), indent=2))


def built_from(folder: Path) -> Device | None:
    """The description `folder` was built from; None when it holds no finished device of this version."""
    try:
        recorded = json.loads((folder / "device.json").read_text())
        recorded["core"], recorded["packages"] = Core(**recorded["core"]), tuple(recorded["packages"])
        return Device(**recorded)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _unpack_userland(device: Device, root: Path) -> None:
    packages = ",".join((*BASE_PACKAGES, *device.packages))
    argv = ["mmdebstrap", "--variant=extract", "--architectures=arm64", f"--include={packages}"]
    _call([*argv, device.suite, str(root), *_mirror(device.suite)], "download the device's Debian packages")
    root.chmod(0o755)
    # No maintainer script has run: Python would compile its library at every start, 1.2 s instead of 0.4.
    libraries = [f"/{path.relative_to(root)}" for path in root.glob("usr/lib/python3.*")]
    compile_all = ["/usr/bin/python3", "-m", "compileall", "-q", "-x", _NEVER_IMPORTED, *libraries]
    _call(["chroot", str(root), *compile_all], "run Python on the emulated device")


def _mirror(suite: str) -> list[str]:
    """Where this machine's apt gets `suite` from; empty (mmdebstrap's default) where apt does not know it."""
    wanted = ["Created-By: Packages", "Origin: Debian", "Component: main", f"Codename: {suite}"]
    argv = ["apt-get", "indextargets", "--format", "$(REPO_URI)", *wanted]
    answer = subprocess.run(argv, capture_output=True, text=True)
    return answer.stdout.splitlines()[:1]


def _add_accounts(device: Device, root: Path) -> None:
    home = f"/home/{device.user}"
    accounts = [
        "root:x:0:0:root:/root:/bin/bash",
        "sshd:x:100:65534::/run/sshd:/usr/sbin/nologin",
        f"{device.user}:x:{_USER_ID}:{_USER_ID}::{home}:/bin/bash",
    ]
    etc = root / "etc"
    (etc / "passwd").write_text("\n".join(accounts) + "\n")
    (etc / "group").write_text(f"root:x:0:\ntty:x:5:\nnogroup:x:65534:\n{device.user}:x:{_USER_ID}:\n")
    # A star matches no password and, unlike an exclamation mark, locks no account.
    (etc / "shadow").write_text("".join(f"{line.split(':')[0]}:*:19000:0:99999:7:::\n" for line in accounts))
    (etc / "shadow").chmod(0o600)
    (etc / "hostname").write_text(device.name + "\n")
    (etc / "hosts").write_text(f"127.0.0.1 localhost {device.name}\n")
    for name in ("root", "home", "run", "run/sshd", "proc", "sys", home.lstrip("/")):
        (root / name).mkdir(exist_ok=True)
    os.chown(root / home.lstrip("/"), _USER_ID, _USER_ID)


def _add_hardware(device: Device, root: Path) -> None:
    (root / "etc/cpuinfo").write_text(device.cpuinfo())
    processors = root / "sys/devices/system/cpu"
    processors.mkdir(parents=True)
    for name in ("possible", "present", "online"):
        (processors / name).write_text(f"0-{device.cores - 1}\n")


def _add_ssh_server(device: Device, folder: Path) -> None:
    settings = folder / "rootfs/etc/ssh"
    _make_key(folder / "id_ed25519", comment=f"edgepipe-{device.name}")
    _make_key(settings / "ssh_host_ed25519_key", comment=device.name)
    shutil.copy(folder / "id_ed25519.pub", settings / "authorized_keys")
    (settings / "sshd_config").write_text(
        f"ListenAddress {ADDRESS}\n"
        f"Port {device.port}\n"
        "HostKey /etc/ssh/ssh_host_ed25519_key\n"
        "AuthorizedKeysFile /etc/ssh/authorized_keys\n"
        f"AllowUsers {device.user}\n"
        "AuthenticationMethods publickey\n"
        "UsePAM no\n"
        "UseDNS no\n"
        "PidFile none\n"
        "Subsystem sftp /usr/lib/openssh/sftp-server\n"
        # Sessions do not inherit the server's environment, where the emulator reads which core it is.
        f"SetEnv QEMU_CPU={device.core.qemu}\n"
    )
    public = (settings / "ssh_host_ed25519_key.pub").read_text().split()
    (folder / "known_hosts").write_text(f"[{ADDRESS}]:{device.port} {public[0]} {public[1]}\n")


def _make_key(path: Path, *, comment: str) -> None:
    _call(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)], "make an SSH key")


def _call(argv: list[str], doing: str) -> None:
    try:
        done = subprocess.run(argv, capture_output=True, timeout=_BUILD_DEADLINE_S, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise TargetError(
            f"could not {doing}: {argv[0]} took more than {_BUILD_DEADLINE_S:.0f} s",
            "is the package mirror reachable?",
        ) from error
    if done.returncode != 0:
        tail = done.stderr.decode(errors="replace").strip()[-2000:]
        raise TargetError(f"could not {doing}: {argv[0]} ended with status {done.returncode}:\n{tail}")

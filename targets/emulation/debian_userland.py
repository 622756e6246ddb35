"""The userland of a Debian device: accounts, an OpenSSH server, Python."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from targets import debian
from targets.emulation.devices import ADDRESS, Device
from targets.emulation.keys import make_key

# What the first process becomes, and what it logs once it takes logins.
SERVER = ("/usr/sbin/sshd", "-D", "-e")
READY = "Server listening"
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
_NEVER_IMPORTED = "/(asyncio|distutils|ensurepip|idlelib|lib2to3)/"
_USER_ID = 1000


def fill(device: Device, folder: Path) -> str:
    """Fill `folder/rootfs`; returns the server's public key. Raises `TargetError`. About 10 s and 190 MB."""
    root = folder / "rootfs"
    _unpack_userland(device, root)
    _add_accounts(device, root)
    return _add_ssh_server(device, folder)


def _unpack_userland(device: Device, root: Path) -> None:
    packages = (*BASE_PACKAGES, *device.packages)
    debian.unpack(packages, device.suite, "arm64", root, "download the device's Debian packages")
    # No maintainer script has run: Python would compile its library at every start, 1.2 s instead of 0.4.
    libraries = [f"/{path.relative_to(root)}" for path in root.glob("usr/lib/python3.*")]
    compile_all = ["/usr/bin/python3", "-m", "compileall", "-q", "-x", _NEVER_IMPORTED, *libraries]
    debian.call(["chroot", str(root), *compile_all], "run Python on the emulated device")


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


def _add_ssh_server(device: Device, folder: Path) -> str:
    settings = folder / "rootfs/etc/ssh"
    make_key(settings / "ssh_host_ed25519_key", comment=device.name)
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
    return (settings / "ssh_host_ed25519_key.pub").read_text()

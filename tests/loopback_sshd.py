"""A real OpenSSH server on a loopback port, with keys and settings of its own, for whoever runs the tests."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from targets.transports import ssh
from tests.requirements_for_tests import skip_or_fail

SSHD = Path("/usr/sbin/sshd")
# A line of its configuration for benches, to which what the user's own ~/.bashrc does is nothing: bash reads it in the
# outermost shell only.
NO_START_UP_FILE = "SetEnv SHLVL=1"
_PRIVILEGE_SEPARATION = Path("/run/sshd")


def make_key(path: Path, passphrase: str = "") -> str:
    """Make a key pair; the public half as `ssh-ed25519 AAAA...`."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", str(path)], check=True)
    return " ".join(path.with_suffix(".pub").read_text().split()[:2])


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def loopback_sshd(
    folder: Path, *settings: str, sftp: bool = True, only: str = "publickey"
) -> Iterator[ssh.Options]:
    """Start sshd with its files in `folder` and yield how to log in; end it with the block.

    `only` is what it lets people in by.
    """
    if not SSHD.exists():
        skip_or_fail(f"{SSHD} is missing: apt-get install openssh-server")
    make_privilege_separation_folder()
    host_key = make_key(folder / "host_key")
    (folder / "authorized_keys").write_text(make_key(folder / "id_ed25519") + "\n")
    port = free_port()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}\n")
    config = [
        f"ListenAddress 127.0.0.1:{port}",
        f"HostKey {folder}/host_key",
        f"AuthorizedKeysFile {folder}/authorized_keys",
        f"AuthenticationMethods {only}",
        "PermitRootLogin yes",
        "StrictModes no",
        "UsePAM no",
        "PidFile none",
        *(["Subsystem sftp internal-sftp"] if sftp else []),
        *settings,
    ]
    (folder / "sshd_config").write_text("\n".join(config) + "\n")
    argv = [str(SSHD), "-D", "-e", "-f", str(folder / "sshd_config")]
    with subprocess.Popen(argv, stderr=subprocess.PIPE) as server:
        assert server.stderr is not None
        said = b""
        for line in server.stderr:
            said += line
            if b"Server listening" in line:
                break
        else:
            raise AssertionError(f"sshd did not start: {said.decode()}")
        # What it says of every login would fill the pipe, and then it would wait for ever.
        threading.Thread(target=server.stderr.read, daemon=True).start()
        try:
            yield ssh.Options(
                host="127.0.0.1",
                port=port,
                user=getpass.getuser(),
                key_file=str(folder / "id_ed25519"),
                known_hosts=str(folder / "known_hosts"),
                ssh_config=None,
            )
        finally:
            server.terminate()


def make_privilege_separation_folder() -> None:
    """A server of root's insists on /run/sshd at every login, which its package makes at boot only. It stays: servers
    of tests that run beside these need it, too."""
    if os.geteuid() == 0:
        _PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)

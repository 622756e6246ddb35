"""A lab of boards: each a real SSH server of its own on this machine, that can be cut off, frozen, or gone.

On a board the work is a real install: the agent takes the board's lock and runs `after_install`, here a script that
writes down when it begins and when it ends, with the token it ran under.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from targets.target import TargetBase, target_model
from tests.loopback_sshd import NO_START_UP_FILE, SSHD, free_port, make_key, make_privilege_separation_folder

# One in so many jobs fails on a flaky board.
FLAKY = 4
SCRIPT = """#!/bin/sh
# $1: the board's log, $2: the token, $3: the job, $4: how many of a hundred fail here
[ "$(printf %s "$2$3" | cksum | cut -d ' ' -f 1 | sed 's/.*\\(..\\)$/\\1/')" -ge "$4" ] || exit 1
echo "begin $2 $3" >> "$1"
sleep 0.02
echo "end $2 $3" >> "$1"
"""
MODEL = b"a model that nobody runs"
DIGEST = hashlib.sha256(MODEL).hexdigest()


@dataclass
class Board:
    """One board; `percent` of its jobs fail."""

    name: str
    folder: Path
    port: int
    percent: int
    server: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Its server listens; harmless where it does."""
        if self.server is None:
            said = ["-E", str(self.folder / "sshd.log")]
            self.server = subprocess.Popen([str(SSHD), "-D", *said, "-f", str(self.folder / "sshd_config")])
            while not self._listens():
                if self.server.poll() is not None:
                    raise AssertionError((self.folder / "sshd.log").read_text())

    def cut(self) -> None:
        """Every connection breaks."""
        self._signal(signal.SIGKILL)

    def freeze(self) -> None:
        """The network is silent: nothing goes through, and neither end is told. What runs there goes on."""
        self._signal(signal.SIGSTOP)

    def stop(self) -> None:
        """It is off: nobody answers, every connection breaks."""
        if self.server is not None:
            sessions = self._sessions()
            self.server.kill()
            self.server.wait()
            self.server = None
            _send(sessions, signal.SIGKILL)

    def log(self) -> list[tuple[str, int, str]]:
        """What happened there: begin or end, the token, the job."""
        path = self.folder / "log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(what, int(token), key) for what, token, key in (line.split() for line in lines)]

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _signal(self, number: int) -> None:
        _send(self._sessions(), number)

    def _sessions(self) -> list[int]:
        if self.server is None:
            return []
        with contextlib.suppress(OSError):
            pid = self.server.pid
            return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return []

    def target(self, lab: Path) -> TargetBase:
        """How it is reached."""
        way = {
            "host": "127.0.0.1",
            "port": self.port,
            "user": getpass.getuser(),
            "key_file": str(lab / "id_ed25519"),
            "known_hosts": str(lab / "known_hosts"),
            "ssh_config": None,
            "keepalive_s": 2,
        }
        places = {"workdir": str(self.folder / "work"), "install_path": str(self.folder / "installed")}
        # Not what a version manager has put in its place, which costs as much as the job.
        told = {"transport": "ssh", "ssh": way, "python": sys.executable, **places}
        return target_model().model_validate(told)

    def job(self, key: str, token: int) -> dict[str, Any]:
        """An install, in the words of the agent's jobs."""
        work = ["sh", str(self.folder.parent / "work.sh"), str(self.folder / "log"), str(token), key]
        return {
            "model": str(self.folder.parent / "model.tflite"),
            "sha256": DIGEST,
            "manifest": {"sha256": DIGEST, "job": key},
            "install_path": str(self.folder / "installed"),
            "lock": str(self.folder / "work" / "lock"),
            "restart": [*work, str(self.percent)],
            "restart_deadline_s": 60,
        }


@contextlib.contextmanager
def lab(folder: Path, count: int, flaky: int) -> Iterator[list[Board]]:
    """So many boards that run, `flaky` of them failing one job in four; `folder` holds all of it."""
    make_privilege_separation_folder()
    host_key = make_key(folder / "host_key")
    (folder / "authorized_keys").write_text(make_key(folder / "id_ed25519") + "\n")
    (folder / "work.sh").write_text(SCRIPT)
    (folder / "model.tflite").write_bytes(MODEL)
    boards = []
    for number in range(count):
        percent = 100 // FLAKY if number < flaky else 0
        boards.append(Board(f"board-{number:02}", folder / f"board-{number:02}", free_port(), percent))
        boards[-1].folder.mkdir()
        (boards[-1].folder / "sshd_config").write_text(_config(folder, boards[-1].port))
    known = (f"[127.0.0.1]:{board.port} {host_key}\n" for board in boards)
    (folder / "known_hosts").write_text("".join(known))
    told = [{"name": board.name, "port": board.port, "percent": board.percent} for board in boards]
    (folder / "lab.json").write_text(json.dumps(told))
    try:
        for board in boards:
            board.start()
        yield boards
    finally:
        for board in boards:
            board.stop()


def boards_of(folder: Path) -> list[Board]:
    """The boards of a lab that another process runs."""
    told = json.loads((folder / "lab.json").read_text())
    return [Board(each["name"], folder / each["name"], each["port"], each["percent"]) for each in told]


def _config(folder: Path, port: int) -> str:
    lines = (
        f"ListenAddress 127.0.0.1:{port}",
        f"HostKey {folder}/host_key",
        f"AuthorizedKeysFile {folder}/authorized_keys",
        "AuthenticationMethods publickey",
        "PermitRootLogin yes",
        "StrictModes no",
        "UsePAM no",
        "PidFile none",
        NO_START_UP_FILE,
        "Subsystem sftp internal-sftp",
    )
    return "\n".join(lines) + "\n"


def _send(processes: list[int], number: int) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)

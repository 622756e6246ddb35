"""A lab: a real labgrid coordinator, and people with its real client. Their programs are fetched once a machine."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from targets.places import state_folder
from tests.requirements_for_tests import skip_or_fail

LABGRID = "labgrid==26.0.1"


def programs() -> Path:
    """The folder of labgrid's programs: an environment of its own, for it brings a plugin of pytest's."""
    # Its programs name the folder that it was made in.
    folder = state_folder().joinpath("peers", LABGRID).resolve()
    ready = folder / "ready"
    if not ready.exists():
        try:
            venv = [sys.executable, "-m", "venv", "--clear", folder]
            subprocess.run(venv, check=True, capture_output=True, text=True)
            pip = [folder / "bin/python", "-m", "pip", "install", "--quiet", LABGRID]
            subprocess.run(pip, check=True, capture_output=True, text=True, env=_environment())
        except subprocess.CalledProcessError as error:
            skip_or_fail(f"{LABGRID} could not be installed: {error.stderr.strip()[-300:]}")
        ready.touch()
    return folder / "bin"


def _environment() -> dict[str, str]:
    """Without a path to packages that are not labgrid's own."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


class Lab:
    """A coordinator at an address of this machine, which can be restarted there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.programs = programs()
        self.address = "127.0.0.1:0"
        self.start()

    def start(self) -> None:
        """Until it listens."""
        argv = [self.programs / "labgrid-coordinator", "--listen", self.address]
        self._process = subprocess.Popen(
            argv,
            cwd=self._folder,
            env=_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("listening on "):
                self.address = f"127.0.0.1:{line.strip().rpartition(':')[2]}"
                break
        else:
            raise AssertionError("labgrid-coordinator ended at once")
        # It tells of all that it is asked.
        self._drain = threading.Thread(target=self._process.stdout.read)
        self._drain.start()

    def stop(self) -> None:
        """At once."""
        self._process.kill()
        self._drain.join()
        # Closes what it was read by, too.
        with self._process:
            pass

    def ask(self, *words: str, user: str = "ann") -> subprocess.CompletedProcess[str]:
        """What `labgrid-client` says to somebody at the host `desk`."""
        names = {"LG_COORDINATOR": self.address, "LG_HOSTNAME": "desk", "LG_USERNAME": user}
        return subprocess.run(
            [self.programs / "labgrid-client", *words],
            env=_environment() | names,
            capture_output=True,
            text=True,
            timeout=180,
        )

    def told(self, *words: str, user: str = "ann") -> str:
        """The same, where it is to succeed."""
        done = self.ask(*words, user=user)
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextlib.contextmanager
def lab(folder: Path, *places: str) -> Iterator[Lab]:
    """Run one that has these places; nothing of it stays."""
    found = Lab(folder)
    try:
        for place in places:
            found.told("-p", place, "create")
        yield found
    finally:
        found.stop()

"""A real adb server, and phones behind it that are this machine (tests/adbd.py), for whoever runs the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from targets.transports import adb
from tests.loopback_sshd import free_port
from tests.requirements_for_tests import skip_or_fail

ROOT = Path(__file__).parent.parent


@contextmanager
def phone(*arguments: str) -> Iterator[str]:
    """Start an adb daemon; yields its address and port, which is its serial."""
    argv = [sys.executable, "-m", "tests.adbd", *arguments]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as daemon:
        try:
            assert daemon.stdout is not None
            yield f"127.0.0.1:{int(daemon.stdout.readline())}"
        finally:
            daemon.kill()


@contextmanager
def adb_server(folder: Path) -> Iterator[adb.Options]:
    """A port for an adb server of the test's own, its keys in `folder`: our transport starts it, the block ends it."""
    if shutil.which("adb") is None:
        skip_or_fail("the adb client is missing: apt-get install adb")
    client = folder / "adb"
    # The server takes its keys from HOME, and looks for emulators on the ports from 5555 up to this one.
    client.write_text(f'#!/bin/sh\nHOME="{folder}" ADB_LOCAL_TRANSPORT_MAX_PORT=5554 exec adb "$@"\n')
    client.chmod(0o755)
    options = adb.Options(server=f"127.0.0.1:{free_port()}", client=str(client), folder=str(folder))
    try:
        yield options
    finally:
        port = options.address[1]
        environment = {**os.environ, "HOME": str(folder)}
        subprocess.run(["adb", "-P", str(port), "kill-server"], env=environment, capture_output=True)


@contextmanager
def loopback_adb(folder: Path, *arguments: str) -> Iterator[adb.Options]:
    """An adb server with one phone, as it is reached over a network."""
    with adb_server(folder) as options, phone(*arguments) as serial:
        yield options.model_copy(update={"serial": serial})

"""A PostgreSQL server of the tests' own: in a temporary folder, behind a socket, without rights."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.requirements_for_tests import skip_or_fail

# PostgreSQL refuses to run as root; Debian's package brings this account.
ACCOUNT = "postgres"


@contextlib.contextmanager
def server() -> Iterator[Path]:
    """Start one; the block is handed the folder of its socket. Nothing of it stays."""
    programs = _programs()
    account = ACCOUNT if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if account:
            shutil.chown(folder, account)
        data = folder / "data"
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", "edgepipe", "-A", "trust", "--no-sync", "-E", "UTF8"],
            check=True,
            capture_output=True,
            user=account,
        )
        settings = f"-k {folder} -c listen_addresses='' -c fsync=off -c max_connections=20"
        control = [programs / "pg_ctl", "-D", data, "-w"]
        log = ["-l", str(folder / "log")]
        subprocess.run(
            [*control, *log, "-o", settings, "start"], check=True, capture_output=True, user=account
        )
        try:
            yield folder
        finally:
            stop = [*control, "-m", "immediate", "stop"]
            subprocess.run(stop, check=True, capture_output=True, user=account)


def new_database(socket: Path, name: str) -> str:
    """Make a database; its URL."""
    import psycopg

    with psycopg.connect(f"host={socket} user=edgepipe dbname=postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return f"postgresql://edgepipe@/{name}?host={socket}"


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if on_path := shutil.which("initdb"):
        found.append(Path(on_path).resolve())
    if not found:
        skip_or_fail("PostgreSQL is not installed; on Debian: apt install postgresql")
    return found[-1].parent

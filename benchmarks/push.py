"""10,000 pushes broken at a random byte: nothing corrupt, every next run heals. And how fast a push is that is not.

300 of them over a real SSH server, the others through pipes into the agent's own code, each in a process that is cut
off, killed, or finds its disk full. Needs openssh-server. Resumable: what became of thirty is kept in the state folder,
under the digest of the code it was made by.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks._broken_pushes import Account, break_in_process, break_over_ssh, small_disk
from benchmarks._remembered import code, remembered
from targets.device import Device, open_device
from targets.target import target_model
from targets.transports import ssh
from tests.loopback_sshd import NO_START_UP_FILE, loopback_sshd

IN_PROCESS, OVER_SSH = 9_700, 300
FAULTS_A_FILE = 3
AT_ONCE = 30
RESENT_BYTES = 1 << 20
COLD_BYTES = 100_000_000
COLD_SHARE = 0.9
UNCHANGED_S = 0.3


def run() -> list[str]:
    """Print the tables; returns the goals that were missed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "server").mkdir()
        made_by = code("benchmarks/push.py", "device_agents", "targets")
        account = _in_process(made_by)
        with loopback_sshd(folder / "server", NO_START_UP_FILE) as options:
            account.add(_over_ssh(options, folder, made_by))
            scp, push = _speeds(options, folder)
            unchanged = _unchanged(options, folder)
    table = Table("", "", title="pushes")
    for fault, count in account.broken.items():
        table.add_row(f"broken: {fault}", f"{count:,}")
    table.add_row("corrupt activations", str(account.corrupt))
    table.add_row("not healed by the next run", str(account.unhealed))
    table.add_row("sent again of what had arrived, bytes at most", f"{account.resent:,}")
    table.add_row("100 MB by scp, MB/s", f"{scp:.0f}")
    table.add_row("100 MB pushed, verified, MB/s", f"{push:.0f}")
    table.add_row("all there already, ms on an open connection", f"{unchanged * 1e3:.0f}")
    Console().print(table)
    missed = []
    if account.corrupt or account.unhealed:
        missed.append(f"{account.corrupt} corrupt, {account.unhealed} not healed; goal none")
    if account.resent > RESENT_BYTES:
        missed.append(f"{account.resent:,} bytes were sent again, goal 1 MiB or less")
    if push < COLD_SHARE * scp:
        missed.append(f"push at {push / scp:.0%} of scp's speed, goal {COLD_SHARE:.0%} or more")
    if unchanged > UNCHANGED_S:
        missed.append(f"what is there took {unchanged * 1e3:.0f} ms, goal {UNCHANGED_S * 1e3:.0f} or less")
    return missed


def _in_process(made_by: str) -> Account:
    account = Account()
    # A disk in memory: ten thousand times to wait for a real one is not what is tried here.
    memory = Path("/dev/shm")
    files = -(-IN_PROCESS // FAULTS_A_FILE)
    for first in range(0, files, AT_ONCE):
        seeds = range(first, min(files, first + AT_ONCE))
        with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
            one = functools.partial(break_in_process, folder=Path(folder))
            account.add(_remembered(f"{made_by} in process {seeds}", seeds, one))
    return account


def _over_ssh(options: ssh.Options, folder: Path, made_by: str) -> Account:
    account = Account()
    with small_disk(folder / "disk", 64) as small:
        connect = functools.partial(connected, options, folder / "disk" / "work dir")
        for first in range(0, OVER_SSH, AT_ONCE):
            # Without a disk of its own to fill, that third of the faults is left out.
            numbers = range(first, min(OVER_SSH, first + AT_ONCE))
            seeds = [each for each in numbers if small or each % FAULTS_A_FILE != FAULTS_A_FILE - 1]
            one = functools.partial(break_over_ssh, connect=connect, host=folder)
            account.add(_remembered(f"{made_by} over ssh {numbers} {small}", seeds, one))
    return account


def _remembered(key: str, seeds: Iterable[int], one: Callable[[int], Account]) -> Account:
    def found() -> dict[str, Any]:
        account = Account()
        for seed in seeds:
            account.add(one(seed))
        return dataclasses.asdict(account)

    return Account(**remembered("push", key, found))


@contextlib.contextmanager
def connected(options: ssh.Options, workdir: Path) -> Iterator[Device]:
    """A device behind the server."""
    fields: dict[str, Any] = {
        "transport": "ssh",
        "ssh": options.model_dump(),
        # Itself, not what a version manager has put in front of it.
        "python": str(Path(sys.executable).resolve()),
        "workdir": str(workdir),
        "install_path": str(workdir.with_name("installed")),
    }
    with open_device("loopback", target_model().model_validate(fields)) as device:
        yield device


def _speeds(options: ssh.Options, folder: Path) -> tuple[float, float]:
    """The best of three each, in turn, in MB/s: scp, connection included, and a push on an open one."""
    source = folder / "cold.bin"
    best = {"scp": 0.0, "push": 0.0}
    with connected(options, folder / "cold") as device:
        for _ in range(3):
            source.write_bytes(os.urandom(COLD_BYTES))
            digest = subprocess.run(
                ["sha256sum", str(source)], check=True, capture_output=True, text=True
            ).stdout.split()[0]
            best["scp"] = max(best["scp"], _rate(lambda: _scp(options, source, folder / "copied")))
            wanted = {digest: source}
            best["push"] = max(best["push"], _rate(lambda wanted=wanted: device.push(wanted)))
            Path(*device.push(wanted).values()).unlink()
    source.unlink()
    return best["scp"], best["push"]


def _rate(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return COLD_BYTES / 1e6 / (time.perf_counter() - started)


def _scp(options: ssh.Options, source: Path, destination: Path) -> None:
    known = f"UserKnownHostsFile={options.known_hosts}"
    words = ["scp", "-q", "-P", str(options.port), "-i", str(options.key_file), "-o", known]
    subprocess.run([*words, str(source), f"{options.user}@{options.host}:{destination}"], check=True)


def _unchanged(options: ssh.Options, folder: Path) -> float:
    """Seconds, the median of nine, to find that runtime, models and inputs of an earlier run are all there."""
    from benchmarks._broken_pushes import File

    with connected(options, folder / "unchanged") as device:
        files = {}
        for seed in range(3):
            host = folder / str(seed)
            host.mkdir()
            file = File.random(seed, host, folder)
            files[file.digest] = file.path
        times = []
        for _ in range(10):
            started = time.perf_counter()
            device.provision(lambda text: None)
            device.push(files)
            times.append(time.perf_counter() - started)
    return statistics.median(times[1:])

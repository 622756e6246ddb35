"""32 devices provisioned and deployed to at once: do all succeed, and how long does the slowest wait?

Each is a real SSH server of its own on this machine, and starts with nothing. A device alone takes `alone` seconds of
work here; the fair share of 32 is 32 times that, spread over this machine's cores. Needs openssh-server.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline import commands, deployment, locate
from pipeline.errors import ExitCode
from pipeline.progress import Progress
from pipeline.result import Result
from targets.device import open_device
from targets.target import TargetBase, target_model
from targets.transports import ssh
from tests.loopback_sshd import loopback_sshd

DEVICES = 32
SHARES = 2.0
SETTINGS = (
    "measure.repetitions=2",
    "measure.min_seconds=0",
    "measure.max_seconds=0.2",
    "measure.max_warmup_seconds=0.2",
    "measure.cold_starts=0",
)


def run() -> list[str]:
    """Print the table; returns the goals that were missed."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as servers:
        folder = Path(name)
        targets = {}
        for number in range(DEVICES + 1):
            place = folder / f"device-{number}"
            place.mkdir()
            targets[place.name] = _target(servers.enter_context(loopback_sshd(place)), place)
        name, first = targets.popitem()
        # What the host makes for all of them is there the second time.
        _deploy({name: first}, folder)
        with open_device(name, first) as device:
            device.clean(installed=True)
        alone, _ = _deploy({name: first}, folder)
        together, found = _deploy(targets, folder)
    cores = len(os.sched_getaffinity(0))
    share = alone * DEVICES / cores
    passed = sum(each.exit_code == ExitCode.PASS for each in found.targets.values())
    table = Table("", "", title=f"{DEVICES} devices at once, {cores} cores")
    table.add_row("succeeded", str(passed))
    table.add_row("one alone, s", f"{alone:.1f}")
    table.add_row("fair share of each, s", f"{share:.1f}")
    table.add_row("the slowest ended after, s", f"{together:.1f}")
    Console().print(table)
    missed = [
        f"{name}: {each.headline}" for name, each in found.targets.items() if each.exit_code != ExitCode.PASS
    ]
    if together > SHARES * share:
        missed.append(f"the slowest took {together / share:.1f} times its share, goal {SHARES:g} or less")
    return missed


def _target(options: ssh.Options, place: Path) -> TargetBase:
    fields: dict[str, Any] = {
        "transport": "ssh",
        "ssh": options.model_dump(),
        "workdir": str(place / "work"),
        "install_path": str(place / "installed"),
    }
    return target_model().model_validate(fields)


def _deploy(targets: dict[str, TargetBase], folder: Path) -> tuple[float, Result]:
    """Seconds, and what came of it."""
    plan, home = locate.read_plan("pipeline.yaml", SETTINGS)
    with commands.store().in_use() as store:
        started = time.monotonic()
        found = deployment.run(plan, home, targets, store, folder / "runs", Progress(quiet=True))
        return time.monotonic() - started, found

"""What scheduling costs: 100,000 jobs on 1,000 simulated devices, by one controller on one core. Jobs do nothing.

Each is queued, taken and ended in the database, under a lease that is renewed meanwhile. That lies in memory: what
a disk takes to keep the two transactions of a job is told apart. `processor` is the controller's time on its core.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.farm.engines import Farm, local
from pipeline.farm.heart import Hold
from pipeline.farm.queue import Job
from pipeline.farm.station import Station
from targets.places import state_folder

DEVICES = 1000
JOBS = 100_000
GOAL_MS = 2.0
# What a controller that has done a tenth of the jobs grows by until it has done all.
GROWTH = 0.10
MEMORY = Path("/dev/shm")
WRITES = 50


def run() -> list[str]:
    """Print the table; returns the goals that were missed."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.exists() else None) as name:
            found = schedule(f"sqlite:///{name}/history.db", DEVICES, JOBS)
    finally:
        os.sched_setaffinity(0, before)
    table = Table("", "", title=f"{JOBS:,} jobs on {DEVICES:,} simulated devices, one core, SQLite")
    table.add_row("a job, processor, ms", f"{found['processor_ms']:.2f}")
    table.add_row("a job, by the clock, ms", f"{found['wall_ms']:.2f}")
    table.add_row("two writes to the disk of the state folder, ms", f"{2 * _write_ms():.2f}")
    table.add_row("memory after a tenth of the jobs, MB", f"{found['early_mb']:.0f}")
    table.add_row("memory after all, MB", f"{found['late_mb']:.0f}")
    Console().print(table)
    missed = []
    if found["done"] != JOBS:
        missed.append(f"{JOBS - found['done']:.0f} jobs were not done")
    if found["processor_ms"] > GOAL_MS:
        missed.append(f"{found['processor_ms']:.2f} ms a job, goal {GOAL_MS:g} or less")
    if found["late_mb"] > found["early_mb"] * (1 + GROWTH):
        missed.append(f"memory grew from {found['early_mb']:.0f} to {found['late_mb']:.0f} MB")
    return missed


def schedule(url: str, devices: int, count: int) -> dict[str, float]:
    """Milliseconds a job, and the controller's resident memory after a tenth of the jobs and after all."""
    jobs = [Job(f"job-{number}", f"board-{number % devices}") for number in range(count)]
    seen, lock = {"done": 0, "early": 0, "late": 0}, threading.Lock()

    def work(job: Job, hold: Hold) -> dict[str, Any]:
        with lock:
            seen["done"] += 1
            if seen["done"] in (count // 10, count):
                seen["early" if seen["done"] == count // 10 else "late"] = _resident_bytes()
        return {}

    def fit() -> None:
        """A device that is only simulated is always fit."""

    stations = {name: Station(name, fit) for name in {job.device for job in jobs}}
    started, busy = time.perf_counter(), time.process_time()
    ended = local.run(Farm(url, stations, work), jobs)
    passed, busy = time.perf_counter() - started, time.process_time() - busy
    return {
        "done": sum(each.state == "done" for each in ended),
        "processor_ms": busy / count * 1e3,
        "wall_ms": passed / count * 1e3,
        "early_mb": seen["early"] / 1e6,
        "late_mb": seen["late"] / 1e6,
    }


def _write_ms() -> float:
    """What it takes until a page is on the disk, typically."""
    state_folder().mkdir(parents=True, exist_ok=True)
    passed = []
    with tempfile.TemporaryFile(dir=state_folder()) as file:
        for _ in range(WRITES):
            started = time.perf_counter()
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
            passed.append(time.perf_counter() - started)
    return statistics.median(passed) * 1e3


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")

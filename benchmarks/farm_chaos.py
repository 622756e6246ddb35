"""A farm in which everything goes wrong: 60 boards with real SSH servers, 2,000 jobs, two controllers that are killed
20 times in all, connections that break or fall silent, boards that vanish, clocks that jump, 3 boards that are flaky.

What a board did it wrote down itself. Two jobs on one board at a time would show there: an end that follows another's
begin. Needs openssh-server.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks._farm_controller import jobs_of
from benchmarks._farm_lab import Board, lab
from pipeline.farm.leases import Leases, open_farm
from pipeline.farm.queue import Queue

BOARDS, FLAKY, JOBS, KILLS = 60, 3, 2000, 20
CONTROLLERS = 2
# Shorter than usual, for the sake of the bench's length.
TTL_S = 10.0
BACK_S = 60.0
DONE = 0.995
DEADLINE_S = 3600.0
SEED = 1
MEMORY = Path("/dev/shm")
ROOT = Path(__file__).parent.parent


@dataclass
class Found:
    """What came of it."""

    jobs: int
    states: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    double: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    # How long a killed controller's leases lasted, at most.
    back_s: float = 0.0
    seconds: float = 0.0

    @property
    def share_done(self) -> float:
        return self.states["done"] / self.jobs


def run() -> list[str]:
    """Print the table; returns the goals that were missed."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.exists() else None) as name:
        url = f"sqlite:///{name}/history.db"
        found = chaos(url, Path(name), BOARDS, FLAKY, JOBS, KILLS, TTL_S, random.Random(SEED))
    table = Table("", "", title=f"{JOBS:,} jobs on {BOARDS} boards, {FLAKY} of them flaky; SQLite")
    table.add_row("controllers killed", str(found.kills))
    for fault, count in sorted(found.faults.items()):
        table.add_row(fault, str(count))
    table.add_row("jobs done", f"{found.states['done']:,} ({found.share_done:.2%})")
    table.add_row("two at a time on a board", str(len(found.double)))
    table.add_row("results lost", str(len(found.lost)))
    table.add_row("results twice", str(len(found.duplicates)))
    table.add_row(f"leases of {TTL_S:g} s back after a kill, at most, s", f"{found.back_s:.1f}")
    table.add_row("in all, s", f"{found.seconds:.0f}")
    Console().print(table)
    return missed(found)


def missed(found: Found) -> list[str]:
    """The goals that were."""
    told = [*found.double, *found.lost, *found.duplicates]
    if found.back_s > BACK_S:
        told.append(f"leases were back after {found.back_s:.0f} s, goal {BACK_S:g} or less")
    if found.share_done < DONE:
        told.append(f"{found.share_done:.2%} of the jobs done, goal {DONE:.1%} or more")
    return told


def chaos(
    url: str, folder: Path, boards: int, flaky: int, jobs: int, kills: int, ttl_s: float, dice: random.Random
) -> Found:
    """Do the jobs while all goes wrong; the lab's files are in `folder`."""
    found, started = Found(jobs), time.monotonic()
    with lab(folder, boards, flaky) as all_of_them, contextlib.closing(open_farm(url)) as database:
        queue = Queue(Leases(database))
        keys = [job.key for job in jobs_of(all_of_them, jobs)]
        argv = [sys.executable, "-m", "benchmarks._farm_controller", url, str(folder), str(jobs), str(ttl_s)]
        seen: dict[str, Any] = {}
        with _controllers(argv) as controllers, _monkey(all_of_them, dice, found):
            while any(each.poll() is None for each in controllers):
                if time.monotonic() - started > DEADLINE_S:
                    found.lost.append(f"not through after {DEADLINE_S:.0f} s")
                    break
                seen |= _results(queue, keys, seen, found)
                if found.kills < kills and len(seen) >= jobs * (found.kills + 1) / (kills + 2):
                    found.back_s = max(found.back_s, _kill(controllers, dice, argv, queue))
                    found.kills += 1
                    passed = time.monotonic() - started
                    print(
                        f"{passed:.0f} s: {len(seen)} of {jobs} jobs, {found.kills} of {kills} kills",
                        flush=True,
                    )
                time.sleep(1.0)
        crashed = [each.returncode for each in controllers if each.returncode]
        if crashed:
            found.lost.append(f"a controller ended with code {crashed[0]}")
        ended = queue.outcomes(keys)
        seen |= _results(queue, keys, seen, found)
        found.states.update(each.state for each in ended)
        audit(all_of_them, seen, found)
    found.seconds = time.monotonic() - started
    return found


def _results(queue: Queue, keys: list[str], before: dict[str, Any], found: Found) -> dict[str, Any]:
    """The results there are; one that was there must be there still, and the same."""
    now = {each.key: each.result for each in queue.outcomes(keys) if each.state == "done"}
    found.lost += [f"{key}: its result was lost" for key in before if key not in now]
    found.duplicates += [f"{key}: has two results" for key in now if before.get(key, now[key]) != now[key]]
    return now


def audit(boards: list[Board], results: dict[str, Any], found: Found) -> None:
    """What the boards say themselves."""
    for board in boards:
        at: tuple[int, str] | None = None
        ends: Counter[tuple[int, str]] = Counter()
        for what, token, key in board.log():
            if what == "end" and at != (token, key):
                found.double.append(f"{board.name}: {key} went on under token {token} beside {at}")
            if what == "end":
                ends[token, key] += 1
            elif at is not None and token < at[0]:
                found.double.append(f"{board.name}: {key} began under token {token} after {at}")
            at = (token, key) if what == "begin" else at
        for token, key in ends:
            if ends[token, key] > 1:
                found.duplicates.append(f"{board.name}: {key} was done twice under token {token}")
    done = {(token, key) for board in boards for what, token, key in board.log() if what == "end"}
    unfounded = [key for key, result in results.items() if (result["token"], key) not in done]
    found.lost += [f"{key}: no board has done what its result says" for key in unfounded]


@contextlib.contextmanager
def _controllers(argv: list[str]) -> Iterator[list[subprocess.Popen[bytes]]]:
    running = [subprocess.Popen(argv, cwd=ROOT) for _ in range(CONTROLLERS)]
    try:
        yield running
    finally:
        for each in running:
            each.kill()
            each.wait()


def _kill(
    controllers: list[subprocess.Popen[bytes]], dice: random.Random, argv: list[str], queue: Queue
) -> float:
    """Kill a controller, start another; how long the dead one's leases lasted, in seconds."""
    number = dice.randrange(len(controllers))
    dead, since = controllers[number], time.monotonic()
    dead.kill()
    dead.wait()
    controllers[number] = subprocess.Popen(argv, cwd=ROOT)
    while any(f":{dead.pid}:" in each["holder"] for each in queue.leases.held()):
        time.sleep(0.1)
    return time.monotonic() - since


@contextlib.contextmanager
def _monkey(boards: list[Board], dice: random.Random, found: Found) -> Iterator[None]:
    """All the time something is wrong with a board."""
    over = threading.Event()

    def harm() -> None:
        # Each board has the same share of it, however many there are.
        while not over.wait(dice.uniform(0.2, 1.5) * BOARDS / len(boards)):
            board, fault = dice.choice(boards), dice.choice(["cut", "silent", "gone"])
            found.faults[f"boards {fault}"] += 1
            if fault == "cut":
                board.cut()
            elif fault == "silent":
                board.freeze()
                over.wait(dice.uniform(1, 8))
                board.cut()
            else:
                board.stop()
                over.wait(dice.uniform(1, 8))
                board.start()

    thread = threading.Thread(target=harm)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()

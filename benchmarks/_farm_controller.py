"""`python -m benchmarks._farm_controller URL LAB JOBS TTL`: a controller that does the jobs of a lab's boards.

Its host's clock jumps by up to a day, many times a second.
"""

from __future__ import annotations

import contextlib
import random
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks._farm_lab import Board, boards_of
from pipeline.farm.engines import Farm, local
from pipeline.farm.heart import Hold
from pipeline.farm.policy import Policy
from pipeline.farm.queue import Job
from pipeline.farm.station import Station
from targets.device import Device, open_device
from targets.errors import TargetError

DAY_S = 86_400
DEADLINE_S = 60.0
POLICY = Policy(tries=10, retry_s=1, patience=3, probation_s=5, longest_s=30, quarantines=20, losses=60)


class Connections:
    """A connection to each board, for as long as its lease lasts."""

    def __init__(self, lab: Path) -> None:
        self._lab = lab
        self._boards = {board.name: board for board in boards_of(lab)}
        self._open: dict[str, tuple[int, Device, contextlib.ExitStack]] = {}

    def work(self, job: Job, hold: Hold) -> dict[str, Any]:
        """One install, under the lease."""
        board, token = self._boards[job.device], hold.lease.token
        try:
            device, stack = self._device(board, hold)
            with hold.ending(stack.close):
                device.ask("install", deadline_s=DEADLINE_S, **board.job(job.key, token))
        except TargetError:
            self._close(board.name)
            raise
        return {"token": token}

    def _device(self, board: Board, hold: Hold) -> tuple[Device, contextlib.ExitStack]:
        token, device, stack = self._open.get(board.name, (0, None, None))
        if device is None or stack is None or token != hold.lease.token:
            self._close(board.name)
            stack = contextlib.ExitStack()
            opened = open_device(board.name, board.target(self._lab), hold.lease.fence)
            device = stack.enter_context(opened)
            self._open[board.name] = (hold.lease.token, device, stack)
        return device, stack

    def _close(self, name: str) -> None:
        if name in self._open:
            self._open.pop(name)[2].close()


def answers(board: Board) -> None:
    """Raises `TargetError` unless an SSH server greets."""
    try:
        with socket.create_connection(("127.0.0.1", board.port), 10) as connection:
            if connection.recv(4) == b"SSH-":
                return
    except OSError as error:
        raise TargetError(f"{board.name}: {error}") from None
    raise TargetError(f"{board.name}: something else answers")


def jobs_of(boards: list[Board], count: int) -> list[Job]:
    """So many jobs, of three owners."""
    names = [board.name for board in boards]
    return [
        Job(f"job-{number:05}", names[number % len(names)], owner=f"owner-{number % 3}")
        for number in range(count)
    ]


def main(url: str, folder: str, count: str, ttl_s: str) -> None:
    """Attend to all boards until no job is left."""
    jump()
    lab = Path(folder)
    boards = boards_of(lab)
    stations = {
        board.name: Station(board.name, lambda board=board: answers(board))  # type: ignore[misc]
        for board in boards
    }
    farm = Farm(url, stations, Connections(lab).work, POLICY, float(ttl_s))
    local.run(farm, jobs_of(boards, int(count)))


def jump() -> None:
    """From here on the time of day is anything."""
    true, dice, mutex = time.time, random.Random(0), threading.Lock()

    def jumping() -> float:
        with mutex:
            return true() + dice.uniform(-DAY_S, DAY_S)

    time.time = jumping


if __name__ == "__main__":
    main(*sys.argv[1:])

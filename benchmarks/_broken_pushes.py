"""Pushes that break at a random byte: into the agent's own code in a process of its own, and over a real SSH server."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from device_agents import agent, receiving
from device_agents.job import Job
from targets.device import Device
from targets.errors import TargetError
from targets.pushing import chunks, offset_to_go_on_from

FAULTS = ("cut", "killed", "disk full")
LARGEST = 3 << 20
MIB = 1 << 20


@dataclass
class Account:
    """What became of many broken pushes; `resent`: the most of what had arrived that was sent again."""

    broken: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FAULTS, 0))
    corrupt: int = 0
    unhealed: int = 0
    resent: int = 0

    def add(self, other: Account) -> None:
        """Count another account in."""
        self.broken = {fault: self.broken[fault] + other.broken[fault] for fault in FAULTS}
        self.corrupt += other.corrupt
        self.unhealed += other.unhealed
        self.resent = max(self.resent, other.resent)


@dataclass(frozen=True)
class File:
    """A random file on the host, and its place on the device."""

    path: Path
    digest: str
    place: Path

    @classmethod
    def random(cls, seed: int, host: Path, device: Path) -> File:
        """One of up to 3 MiB and a little."""
        random = np.random.default_rng([5, seed])
        content = random.bytes(int(random.integers(1, LARGEST + MIB // 2)))
        path = host / "file.tflite"
        path.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        return cls(path, digest, device / "objects" / f"{digest}.tflite")

    @property
    def part(self) -> Path:
        """What has arrived of it."""
        return self.place.with_name(f"{self.place.name}.part")

    @property
    def arrived(self) -> int:
        """Its bytes on the device."""
        return next((path.stat().st_size for path in (self.place, self.part) if path.exists()), 0)

    @property
    def corrupt(self) -> bool:
        """Whether the device has something else under its name."""
        return self.place.exists() and hashlib.sha256(self.place.read_bytes()).hexdigest() != self.digest


def break_in_process(seed: int, folder: Path) -> Account:
    """One file, broken three times in three ways, then sent whole; nothing is left in `folder`."""
    account, random = Account(), np.random.default_rng([7, seed])
    file = File.random(seed, folder, folder)
    file.place.parent.mkdir(exist_ok=True)
    for fault in random.permutation(FAULTS):
        _attempt(file, account, str(fault), random.random())
    _attempt(file, account, None)
    account.unhealed += not file.place.exists() or file.part.exists()
    for path in (file.place, file.part, file.path):
        path.unlink(missing_ok=True)
    return account


def _attempt(file: File, account: Account, fault: str | None, share: float = 1.0) -> None:
    """Push the file; break it when this share of what is still to be sent was."""
    found: list[Any] = []
    size = file.path.stat().st_size
    wanted = {"path": str(file.place), "sha256": file.digest, "bytes": size}
    rules = {"folders": [], "unused_s": 0, "recent_s": 0, "quota_bytes": 0}
    stock = {"files": [wanted], "workdir": str(file.place.parent), "tidy": rules}
    receiving.stock(Job({**stock, "extra_bytes": 0, "margin_bytes": 0}), found.append)
    state = found[0]["files"][str(file.place)]
    if state["whole"]:
        return
    offset = offset_to_go_on_from(file.path, state)
    account.resent = max(account.resent, min(file.arrived, size) - offset)
    job = {"version": 1, "do": "receive", **wanted, "offset": offset, "patience_s": 10}
    after = int(share * (size - offset))
    _feed(json.dumps(job).encode() + b"\n", chunks(file.path, offset), fault, after)
    if fault is not None:
        account.broken[fault] += 1
    account.corrupt += file.corrupt


def _feed(line: bytes, payload: Iterator[bytes], fault: str | None, after: int) -> None:
    """Run the agent's own loop in a child; break it once it was sent, or has written, `after` bytes."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _be_the_agent(reader, writer, after if fault == "disk full" else None)
    os.close(reader)
    with contextlib.suppress(BrokenPipeError):
        _write(writer, line)
        for chunk in payload:
            if fault in ("cut", "killed") and len(chunk) >= after:
                _write(writer, chunk[:after])
                break
            after -= len(chunk)
            _write(writer, chunk)
        else:
            fault = fault if fault != "cut" else None
    if fault == "killed":
        os.kill(child, signal.SIGKILL)
    if fault == "cut":
        os.close(writer)
    os.waitpid(child, 0)
    if fault != "cut":
        os.close(writer)


def _be_the_agent(reader: int, writer: int, room: int | None) -> None:
    try:
        os.close(writer)
        os.dup2(reader, 0)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        if room is not None:
            receiving.os = _SmallDisk(room)  # type: ignore[attr-defined]
        agent.serve()
    finally:
        os._exit(0)


class _SmallDisk:
    """The module `os`, on a disk that has so much room and no more."""

    def __init__(self, room: int) -> None:
        self._room = room

    def write(self, descriptor: int, data: Any) -> int:
        written = os.write(descriptor, data[: self._room]) if self._room else 0
        self._room -= written
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def break_over_ssh(
    seed: int, connect: Callable[[], contextlib.AbstractContextManager[Device]], host: Path
) -> Account:
    """One file over SSH, its push broken once, then run again; the device's disk has no other user."""
    account, random = Account(), np.random.default_rng([11, seed])
    fault = FAULTS[seed % len(FAULTS)]
    with connect() as device:
        workdir = Path(device.target.workdir)
        file = File.random(seed, host, workdir)
        at = int(random.integers(0, file.path.stat().st_size + 1))
        ballast = workdir / "ballast"
        sabotage = {
            "cut": lambda: device._transport.close(),
            "killed": lambda: _kill_agents(workdir),
            "disk full": lambda: _fill(ballast),
        }[fault]
        with _sabotaged(at, sabotage), contextlib.suppress(TargetError):
            device.push({file.digest: file.path})
        account.broken[fault] += 1
        account.corrupt += file.corrupt
    ballast.unlink(missing_ok=True)
    _wait_for_agents(workdir)
    arrived, sent = file.arrived, [0]
    with connect() as device, _counted(sent):
        device.push({file.digest: file.path})
    account.resent = max(account.resent, arrived + sent[0] - file.path.stat().st_size)
    account.corrupt += file.corrupt
    account.unhealed += not file.place.exists() or file.part.exists()
    file.place.unlink(missing_ok=True)
    return account


@contextlib.contextmanager
def _replaced_chunks(wrap: Callable[[Iterator[bytes]], Iterator[bytes]]) -> Iterator[None]:
    from targets import device

    real = device.chunks
    device.chunks = lambda path, offset: wrap(real(path, offset))  # type: ignore[assignment]
    try:
        yield
    finally:
        device.chunks = real


def _sabotaged(at: int, sabotage: Callable[[], object]) -> contextlib.AbstractContextManager[None]:
    def wrap(pieces: Iterator[bytes]) -> Iterator[bytes]:
        left = at
        for piece in pieces:
            if 0 <= left <= len(piece):
                yield piece[:left]
                sabotage()
                piece, left = piece[left:], -1
            elif left > 0:
                left -= len(piece)
            yield piece

    return _replaced_chunks(wrap)


def _counted(sent: list[int]) -> contextlib.AbstractContextManager[None]:
    def wrap(pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            sent[0] += len(piece)
            yield piece

    return _replaced_chunks(wrap)


def _agents(workdir: Path) -> list[int]:
    start = os.fsencode(workdir / "agents")
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(word.startswith(start) for word in (process / "cmdline").read_bytes().split(b"\0")):
                found.append(int(process.name))
    return found


def _kill_agents(workdir: Path) -> None:
    for number in _agents(workdir):
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def _wait_for_agents(workdir: Path) -> None:
    ends = time.monotonic() + 60
    while _agents(workdir) and time.monotonic() < ends:
        time.sleep(0.01)


def _fill(ballast: Path) -> None:
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(1 << 16))


@contextlib.contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[bool]:
    """A disk of its own at `folder`; False where this machine lets nobody mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=False)

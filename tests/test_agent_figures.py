"""What the figures mean: which runs are timed, what memory is counted, which operators ran."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from device_agents import environment, runtimes
from device_agents.interpreter import executed
from device_agents.timing import Recorder, timed
from targets.agent_archive import build_agent

MILLISECOND = 1_000_000


class FakeClock:
    """A clock that only `run` and `prepare` move on: 10 ms the one, 1 ms the other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0
        self.collecting: set[bool] = set()
        monkeypatch.setattr(time, "perf_counter_ns", lambda: self.now)

    def prepare(self) -> None:
        self.now += MILLISECOND

    def run(self) -> None:
        self.collecting.add(gc.isenabled())
        self.now += 10 * MILLISECOND


@pytest.mark.parametrize(
    ("protocol", "warmups", "samples"),
    [
        ((0, 0, 1, 0, 9), 0, 1),
        ((4, 0, 3, 0, 9), 4, 3),
        ((4, 0.022, 3, 0.022, 9), 4, 3),
        ((1, 0.022, 1, 0.022, 9), 2, 2),
        ((1, 0.023, 1, 0.023, 9), 3, 3),
        ((1, 0, 1, 100, 9), 1, 9),
        ((1, 0, 9, 100, 9), 1, 9),
    ],
)
def test_recorder_known_answers(
    protocol: tuple[int, float, int, float, int], warmups: int, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock(monkeypatch)
    names = ("warmup_runs", "warmup_seconds", "min_samples", "min_seconds", "max_samples")
    recorder = Recorder(**dict(zip(names, protocol, strict=True)))  # type: ignore[arg-type]
    recorder.record(clock.prepare, clock.run)
    assert recorder.warmup_ns.tolist() == warmups * [10 * MILLISECOND]
    assert recorder.samples_ns.tolist() == samples * [10 * MILLISECOND]
    assert clock.collecting == {False}
    assert gc.isenabled()


def test_the_collector_comes_back_after_a_failed_run() -> None:
    recorder = Recorder(warmup_runs=0, warmup_seconds=0, min_samples=1, min_seconds=0, max_samples=1)
    with pytest.raises(ZeroDivisionError):
        recorder.record(lambda: None, lambda: 1 / 0)
    assert gc.isenabled()


def test_timed_returns_what_the_call_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(monkeypatch)
    assert timed(clock.run) == (10 * MILLISECOND, None)


ALLOCATE = """
import json, mmap, os, sys
sys.path.insert(0, sys.argv[1])
from device_agents import memory
size = 100 * 1000 * 1000
resettable = memory.reset_peak()
seen = [memory.usage()]
block = b"x" * size
seen.append(memory.usage())
del block
seen.append(memory.usage())
resettable = memory.reset_peak()
seen.append(memory.usage())
with open(sys.argv[2], "rb") as stream:
    mapped = mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ)
touched = sum(mapped[::4096])
seen.append(memory.usage())
print(json.dumps([resettable, seen]))
"""


def test_a_hundred_megabytes_show_as_a_hundred_megabytes(tmp_path: Path) -> None:
    archive, mapped = tmp_path / "agent.pyz", tmp_path / "mapped"
    archive.write_bytes(build_agent()[0])
    mapped.write_bytes(b"x" * 100_000_000)
    argv = [sys.executable, "-I", "-S", "-c", ALLOCATE, str(archive), str(mapped)]
    resettable, seen = json.loads(subprocess.run(argv, check=True, capture_output=True).stdout)
    before, held, freed, reset, mapping = seen
    near = pytest.approx(100e6, rel=0.01)
    for field in ("rss", "anonymous", "hwm"):
        assert held[field] - before[field] == near
    assert held["file"] - before["file"] < 1e6
    assert freed["rss"] - before["rss"] < 1e6
    assert freed["hwm"] - before["hwm"] == near
    assert resettable
    assert reset["hwm"] - before["hwm"] < 1e6
    assert mapping["file"] - reset["file"] == near
    assert mapping["anonymous"] - reset["anonymous"] < 1e6


def _nodes(*nodes: tuple[str, list[int], list[int]]) -> list[dict[str, Any]]:
    return [{"op_name": name, "inputs": inputs, "outputs": outputs} for name, inputs, outputs in nodes]


@pytest.mark.parametrize(
    ("nodes", "names"),
    [
        (_nodes(("A", [0], [1]), ("B", [1], [2])), ["A", "B"]),
        (_nodes(("A", [0, 9], [1]), ("B", [1], [2]), ("DELEGATE", [0, 9], [2])), ["DELEGATE"]),
        # An operator in the middle stays; two delegates around it.
        (
            _nodes(
                ("A", [0], [1]), ("B", [1, -1], [2]), ("X", [2], [3]), ("C", [3], [4]), ("D", [4], [5]),
                ("DELEGATE", [0], [2]), ("DELEGATE", [3], [5]),
            ),
            ["DELEGATE", "X", "DELEGATE"],
        ),
        # A weight made dense by an operator that the delegate did not take.
        (
            _nodes(("DENSIFY", [8], [9]), ("A", [0, 9], [1]), ("DELEGATE", [0, 9], [1])),
            ["DENSIFY", "DELEGATE"],
        ),
        # A diamond: both of its arms are inside.
        (
            _nodes(
                ("A", [0], [1]), ("L", [1], [2]), ("R", [1], [3]), ("ADD", [2, 3], [4]), ("Z", [4], [5]),
                ("DELEGATE", [0], [4]),
            ),
            ["DELEGATE", "Z"],
        ),
    ],
)  # fmt: skip
def test_executed_operators(nodes: list[dict[str, Any]], names: list[str]) -> None:
    assert executed(nodes) == names


def test_every_runtime_has_its_file_and_its_name() -> None:
    assert runtimes.names() == ["ai-edge-litert", "tflite-runtime"]


@pytest.mark.parametrize(
    ("said", "bits"), [("throttled=0x50005\n", 0x50005), ("throttled=0x0", 0), ("error=1 \n", None)]
)
def test_throttle_bits_come_from_vcgencmd(
    said: str, bits: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "vcgencmd"
    tool.write_text(f"#!/bin/sh\n[ \"$1\" = get_throttled ] && printf '{said}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert environment.observe()["throttled"] == bits


CPUINFO = """processor\t: 0
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU part\t: 0xd0b

processor\t: 1
CPU implementer\t: 0x41
CPU part\t: 0xd05

Model\t\t: Some Board
"""


def test_an_arm_core_is_told_by_implementer_and_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_read", lambda path: CPUINFO if path == "/proc/cpuinfo" else None)
    assert environment.observe()["cpu"] == {
        "model": None,
        "implementer": "0x41",
        "parts": ["0xd05", "0xd0b"],
        "features": ["asimd", "cpuid", "crc32", "evtstrm", "fp"],
    }

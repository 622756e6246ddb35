"""What the figures mean: which runs are timed, what memory is counted, which operators ran."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_agents import environment, runtimes
from device_agents.interpreter import executed
from device_agents.steadiness import median_is_known
from device_agents.timing import Recorder, clock, timed
from targets.agent_archive import build_agent

MILLISECOND = 1_000_000


def make_recorder(**protocol: Any) -> Recorder:
    none = {
        "warmup_runs": 0,
        "warmup_seconds": 0,
        "max_warmup_seconds": 0,
        "min_seconds": 0,
        "max_seconds": 0,
    }
    return Recorder(**{**none, "interval": 0, **protocol})


class FakeClock:
    """A clock that only `run` and `prepare` move on: 10 ms the one, or what `times` still holds, 1 ms the other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: Sequence[float] = ()) -> None:
        self.now = 0
        self.times = list(times)
        self.collecting: set[bool] = set()
        monkeypatch.setattr(time, "perf_counter_ns", lambda: self.now)

    def prepare(self) -> None:
        self.now += MILLISECOND

    def run(self) -> None:
        self.collecting.add(gc.isenabled())
        self.now += round((self.times.pop(0) if self.times else 10) * MILLISECOND)


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
    recorder = make_recorder(**dict(zip(names, protocol, strict=True)))
    recorder.record(clock.prepare, clock.run)
    assert recorder.warmup_ns.tolist() == warmups * [10 * MILLISECOND]
    assert recorder.samples_ns.tolist() == samples * [10 * MILLISECOND]
    assert clock.collecting == {False}
    assert gc.isenabled()


def test_a_warm_up_lasts_until_the_times_are_steady(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(monkeypatch, [40 - each for each in range(30)])
    recorder = make_recorder(max_warmup_seconds=100, min_samples=1, max_samples=1)
    recorder.record(clock.prepare, clock.run)
    # 30 falling times; the window before the last, and the last, are alike once both lie on the level part.
    assert recorder.steady is True
    assert 40 < len(recorder.warmup_ns) <= 50


@pytest.mark.parametrize(("seconds", "steady"), [(0.3, False), (0.02, None)])
def test_a_warm_up_that_does_not_come_to_rest_says_so(
    seconds: float, steady: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock(monkeypatch, [1.05**each for each in range(60)])
    recorder = make_recorder(max_warmup_seconds=seconds, min_samples=1, max_samples=1)
    recorder.record(clock.prepare, clock.run)
    assert recorder.steady is steady


def test_sampling_ends_when_the_median_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    counts = []
    for noise in (0.001, 0.05, 0.5):
        clock = FakeClock(monkeypatch, 10 * np.exp(noise * random.normal(size=3000)))
        recorder = make_recorder(min_samples=20, max_samples=2000, max_seconds=1e6, interval=0.01)
        recorder.record(clock.prepare, clock.run)
        counts.append(len(recorder.samples_ns))
    # n = (1.96 sqrt(pi / 2) noise / interval)^2, looked at now and then: 151 for 5 %.
    assert counts[0] == 20 and 75 < counts[1] < 450 and counts[2] == 2000


def test_sampling_ends_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(monkeypatch, [5, 15] * 500)
    recorder = make_recorder(min_samples=2, max_samples=1000, max_seconds=1, interval=0.01)
    recorder.record(clock.prepare, clock.run)
    assert 90 < len(recorder.samples_ns) < 140


def test_the_interval_of_the_median_holds_it_as_often_as_it_says() -> None:
    """Brute force: the interval must reach the truth 95 times of 100."""
    random = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        times = np.exp(random.normal(size=101)).tolist()
        centre = float(np.median(times))
        held += median_is_known(times, abs(1 - centre) / centre + 1e-9) is False or abs(1 - centre) < 1e-12
    assert held / 400 >= 0.92


def test_few_times_know_no_median() -> None:
    assert not median_is_known([1.0] * 3, 1.0) and median_is_known([1.0] * 20, 0.0)


def test_what_timing_itself_takes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(0, 100_000, 7))
    monkeypatch.setattr(time, "perf_counter_ns", lambda: next(ticks))
    assert clock()["overhead_ns"] == 7


def test_the_wait_for_a_core_is_the_kernels_count() -> None:
    recorder = make_recorder(min_samples=3, max_samples=3)
    recorder.record(lambda: None, lambda: None)
    assert recorder.waited_ns is None or recorder.waited_ns >= 0


def test_the_collector_comes_back_after_a_failed_run() -> None:
    recorder = make_recorder(min_samples=1, max_samples=1)
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
seen = [memory.usage(sys.argv[2])]
block = b"x" * size
seen.append(memory.usage(sys.argv[2]))
del block
seen.append(memory.usage(sys.argv[2]))
resettable = memory.reset_peak()
seen.append(memory.usage(sys.argv[2]))
with open(sys.argv[2], "rb") as stream:
    mapped = mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ)
touched = sum(mapped[::4096])
seen.append(memory.usage(sys.argv[2]))
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
    assert mapping["model"] == near and reset["model"] == 0
    # Nobody else maps the file: its share is the whole.
    assert mapping["pss"] - reset["pss"] == near
    assert abs(mapping["rss"] - mapping["rss_by_page"]) <= max(256 << 10, 0.01 * mapping["rss"])
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
    assert runtimes.names() == ["ai-edge-litert", "tensorflow", "tflite-runtime"]


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

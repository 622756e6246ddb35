"""Faults put into a real session of the real agent: each is marked, with the right reason."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from device_agents import sysfiles
from device_agents.timing import waited_ns
from pipeline.measurement import validity
from pipeline.measurement.measurement import Measurement, Repetition
from tests.agent_process import PROTOCOL, Agent, time_step

THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"
FREQUENCY = "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"
VMSTAT = "proc/vmstat"
# A core that takes its frequency from the emulated file; its 7th inference is the first of the second process.
SLOWED = """
open({log!r}, 'a').write('x')
if os.path.getsize({log!r}) == 7:
    open({frequency!r}, 'w').write('600000')
for _ in range(3 * 10**10 // int(open({frequency!r}).read())):
    pass
"""
SWAPPING = """
found = int(open({vmstat!r}).read().split()[1])
open({vmstat!r}, 'w').write(f'pswpin {{found + 200}}\\npswpout 0\\n')
"""
SKEWED = """
if not hasattr(self, 'skewed'):
    self.skewed = True
    time.clock_gettime_ns = lambda clock, true=time.clock_gettime_ns, raw=time.CLOCK_MONOTONIC_RAW: (
        round(true(clock) * 1.1) if clock == raw else true(clock))
for _ in range(100_000):
    pass
"""
# After the first inference, two windows of ten warm-ups, and 20 samples: faster with every window.
WARMING = """
self.count = getattr(self, 'count', 0) + 1
for _ in range(400_000 if self.count <= 11 else 200_000 if self.count <= 31 else 100_000):
    pass
"""
CROWDED = """
os.sched_setaffinity(0, {{{core}}})
for _ in range(100_000):
    pass
"""
HOG = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); print(flush=True)\nwhile True: pass"


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Agent:
    """An agent on a machine whose kernel tells nothing but what is written for it."""
    root = tmp_path / "root"
    for path, content in ((THROTTLED, "0"), (FREQUENCY, "1500000"), (VMSTAT, "pswpin 7\npswpout 0\n")):
        root.joinpath(path).parent.mkdir(parents=True, exist_ok=True)
        root.joinpath(path).write_text(content)
    monkeypatch.setenv(sysfiles.ROOT_VARIABLE, str(root))
    return Agent(tmp_path)


def judged(agent: Agent, model: str, **protocol: Any) -> validity.Validity:
    """What is to be believed of a session of one variant in two processes."""
    root = agent.folder / "root"
    places = {"log": agent.folder / "log", "frequency": root / FREQUENCY, "vmstat": root / VMSTAT}
    source = model.format(**{name: str(path) for name, path in places.items()}, core=core())
    job = agent.measurement(
        time_step("a"), time_step("a"), models={"a": source}, protocol={**PROTOCOL, **protocol}
    )
    *events, last = agent.answer(**job)
    assert last["event"] == "done", last
    repetitions = tuple(
        Repetition.model_validate(
            {key: value for key, value in event.items() if key not in ("event", "variant")}
        )
        for event in events
        if event["event"] == "repetition"
    )
    measurement = Measurement(variant="a", digest="a", emulated=False, repetitions=repetitions, metric=None)
    environment = {event["when"]: event for event in events if event["event"] == "environment"}
    return validity.check({"a": measurement}, environment, 2)


def core() -> int:
    return min(os.sched_getaffinity(0))


@contextlib.contextmanager
def hog() -> Iterator[None]:
    """A program that takes all it can get of the core."""
    argv = [sys.executable, "-c", HOG, str(core())]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            process.stdout.readline()
            yield
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("model", "state", "words"),
    [
        (
            f"open({{frequency!r}}[:-len({FREQUENCY!r})] + {THROTTLED!r}, 'w').write('5')",
            "invalid",
            "get_throttled: 0x5",
        ),
        (SLOWED, "invalid", "the processor's frequency moved: 600 to 1,500 MHz, and medians by"),
        (SWAPPING, "suspect", "a: the device swapped 1,200 pages beside one of its processes"),
        (SKEWED, "invalid", "a: two clocks disagree: in "),
    ],
    ids=["throttled", "slowed", "swapping", "skewed"],
)
def test_a_fault_is_marked_with_its_reason(agent: Agent, model: str, state: str, words: str) -> None:
    found = judged(agent, model)
    assert any(words in reason for reason in found.reasons), found
    assert found.state in (state, "invalid")


def test_a_slow_warm_up_is_marked(agent: Agent) -> None:
    found = judged(agent, WARMING, warmup_runs=20, min_samples=20, max_samples=20)
    assert found.state == "invalid"
    assert any("2 of 2 processes were not steady" in reason for reason in found.reasons), found


@pytest.mark.skipif(waited_ns() is None, reason="this kernel does not count what a thread waits")
def test_a_program_on_the_same_core_is_marked(agent: Agent) -> None:
    with hog():
        found = judged(agent, CROWDED, min_samples=100, max_samples=100)
    assert found.state == "invalid"
    assert any("half of all processes waited for" in reason for reason in found.reasons), found

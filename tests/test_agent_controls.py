"""Settings of a device while it measures: made as far as it permits, told, and always undone."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from device_agents import controls, placement, sysfiles
from tests.agent_process import Agent, Hanging, time_step

GOVERNORS = [f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor" for core in range(2)]
BOOT = "proc/sys/kernel/random/boot_id"
WANTED = {"cores": None, "priority": 0, "governor": "performance", "fixed_performance": True}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A device with two cores' governors, and Android's `cmd`, which notes what it is asked."""
    monkeypatch.setenv(sysfiles.ROOT_VARIABLE, str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for path in (*GOVERNORS, BOOT):
        tmp_path.joinpath(path).parent.mkdir(parents=True, exist_ok=True)
        tmp_path.joinpath(path).write_text("ondemand")
    tmp_path.joinpath("cmd").write_text(f"#!/bin/sh\necho \"$*\" >> '{tmp_path}/asked'\n")
    tmp_path.joinpath("cmd").chmod(0o755)
    return tmp_path


@pytest.fixture
def agent(root: Path) -> Agent:
    return Agent(root)


def governors(root: Path) -> list[str]:
    return [root.joinpath(path).read_text() for path in GOVERNORS]


def asked(root: Path) -> list[str]:
    return [line.split()[-1] for line in root.joinpath("asked").read_text().splitlines()]


def is_as_before(root: Path) -> bool:
    return (
        governors(root) == ["ondemand"] * 2
        and asked(root)[-1] == "false"
        and not root.joinpath("lock.undo").exists()
    )


def test_settings_hold_for_the_block_and_come_back_after_a_failure(root: Path) -> None:
    lock = str(root / "lock")
    root.joinpath(GOVERNORS[1]).write_text("performance")
    with pytest.raises(ZeroDivisionError), controls.held(lock, "performance", True) as told:
        assert told == {"governors_before": ["ondemand"], "refused": []}
        assert governors(root) == ["performance"] * 2 and asked(root) == ["true"]
        _ = 1 / 0
    assert governors(root) == ["ondemand", "performance"] and asked(root) == ["true", "false"]
    assert not root.joinpath("lock.undo").exists()


def test_what_is_not_permitted_is_told_and_is_no_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, value: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sysfiles, "write", refuse)
    root.joinpath("cmd").write_text("#!/bin/sh\nexit 255\n")
    with controls.held(str(root / "lock"), "performance", True) as told:
        refused = told["refused"]
    assert refused[0] == "governor performance: Permission denied" and len(refused) == 2
    assert refused[1].startswith("fixed_performance: ")
    for path in GOVERNORS:
        root.joinpath(path).unlink()
    with controls.held(str(root / "lock"), "performance", False) as told:
        assert told == {"refused": ["governor performance: no core has any"]}
    with controls.held(str(root / "lock"), None, False) as told:
        assert told == {"refused": []}


def test_a_device_that_started_anew_has_nothing_to_undo(root: Path) -> None:
    lock = str(root / "lock")
    with controls.held(lock, "performance", False):
        root.joinpath(BOOT).write_text("another")
    assert governors(root) == ["performance"] * 2 and not root.joinpath("lock.undo").exists()


def test_a_session_runs_with_its_settings_and_tells_them(agent: Agent, root: Path) -> None:
    log, core = root / "log", min(os.sched_getaffinity(0))
    source = f"open({str(log)!r}, 'a').write(open({str(root / GOVERNORS[0])!r}).read() + '\\n')"
    wanted = {**WANTED, "cores": [core], "priority": 19}
    events = agent.answer(**agent.measurement(time_step("a"), models={"a": source}, controls=wanted))
    assert set(log.read_text().split()) == {"performance"}
    assert events[0]["controls"] == {"governors_before": ["ondemand"] * 2, "refused": []}
    assert events[0]["governors"] == {"cpu0": "performance", "cpu1": "performance"}
    assert events[1]["environment"]["placement"] == {"cores": [core], "priority": 19, "refused": []}
    assert is_as_before(root)


@pytest.mark.parametrize("end", ["SIGTERM", "SIGHUP", "end of input"])
def test_settings_come_back_when_the_host_leaves_or_ends_the_job(end: str, agent: Agent, root: Path) -> None:
    model = Hanging(agent.folder)
    job = agent.measurement(time_step("a"), models={"a": model.source}, controls=WANTED)
    with agent.start(json.dumps(job).encode() + b"\n") as process:
        model.process()
        assert governors(root) == ["performance"] * 2
        if end == "end of input":
            assert process.stdin
            process.stdin.close()
        else:
            process.send_signal(signal.Signals[end])
        assert process.wait(60) == 1
    assert is_as_before(root) and model.ended()


@pytest.mark.parametrize("next_job", ["measure", "clean"])
def test_what_a_killed_agent_left_set_the_next_job_undoes(next_job: str, agent: Agent, root: Path) -> None:
    model = Hanging(agent.folder)
    job = agent.measurement(time_step("a"), models={"a": model.source}, controls=WANTED)
    with agent.start(json.dumps(job).encode() + b"\n") as process:
        model.process()
        process.kill()
    assert model.ended() and governors(root) == ["performance"] * 2
    following: dict[str, Any] = agent.measurement(models={"a": ""})
    if next_job == "clean":
        following = {"version": 1, "do": "clean", "lock": str(agent.lock), "paths": [], "folders": []}
    assert agent.answer(**following)[-1]["event"] == "done"
    assert is_as_before(root)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu0/cpu_capacity": 400, "cpu1/cpu_capacity": 1024, "cpu2/cpu_capacity": 1024}, [1, 2]),
        ({"cpu0/cpufreq/cpuinfo_max_freq": 2000, "cpu1/cpufreq/cpuinfo_max_freq": 1500}, [0]),
        ({"cpu0/cpu_capacity": 1024, "cpu1/cpu_capacity": 1024}, [0, 1]),
        ({}, []),
    ],
)
def test_fast_cores_are_told_from_slow_ones(
    files: dict[str, int], expected: list[int], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    for name, value in files.items():
        path = root / "sys/devices/system/cpu" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(value))
    assert placement.fast_cores() == expected


def test_a_placement_that_is_not_permitted_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "setpriority", refuse)
    found = placement.take([100_000], -5)
    assert len(found["refused"]) == 2 and found["refused"][0].startswith("cores [100000]: ")
    assert found["refused"][1] == "priority -5: Permission denied"
    assert placement.take("fast", 0)["refused"] == [
        "cores fast: the device does not tell which of its cores are fast"
    ]
    assert set(found["cores"]) == os.sched_getaffinity(0)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"cores": "slow"}, "job.controls.cores to be fast or a list of numbers"),
        ({"priority": "high"}, "job.controls.priority to be a whole number"),
        ({"governor": 3}, "job.controls.governor to be a name"),
    ],
)
def test_settings_that_are_none_are_refused(wanted: dict[str, Any], words: str, agent: Agent) -> None:
    error = agent.error(**agent.measurement(time_step("a"), models={"a": ""}, controls=wanted))
    assert error["kind"] == "job" and words in error["message"]

"""The device's side of leases: a host that has lost its own is stopped here, whatever it believes."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agents import fence
from device_agents.failure import Failure
from device_agents.fence import Fence
from targets.device import DeviceBusy, JobFailed, open_device
from targets.target import target_model
from tests.agent_process import Agent, Hanging, time_step

FARM, OTHER = "ab" * 16, "cd" * 16


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path)


def rest(agent: Agent, token: int, farm: str = FARM) -> dict[str, Any]:
    """The last event of the shortest job that takes the lock."""
    lease = {"farm": farm, "token": token}
    return agent.answer(do="cool_down", lock=str(agent.lock), seconds=0, temperatures_c={}, lease=lease)[-1]


def test_a_lower_token_is_refused_and_both_are_named(agent: Agent) -> None:
    assert rest(agent, 7) == {"event": "done"}
    error = rest(agent, 5)
    assert error["kind"] == "fenced"
    assert "token 5" in error["message"] and "token 7" in error["message"]
    # The same lease goes on, a later one begins.
    assert rest(agent, 7) == rest(agent, 8) == {"event": "done"}
    assert [path.name for path in agent.folder.glob("lock.tokens/*")] == [f"{FARM}.8"]


def test_another_farms_tokens_and_a_desk_have_nothing_to_do_with_it(agent: Agent) -> None:
    rest(agent, 7)
    assert rest(agent, 2, OTHER) == {"event": "done"}
    assert agent.answer(do="cool_down", lock=str(agent.lock), seconds=0, temperatures_c={})[-1] == {
        "event": "done"
    }
    assert rest(agent, 6)["kind"] == rest(agent, 1, OTHER)["kind"] == "fenced"


@pytest.mark.parametrize(
    ("lease", "words"),
    [
        (5, "expected job.lease to be an object"),
        ({"token": 5}, "expected job.lease.farm to be a string"),
        ({"farm": "../../x", "token": 5}, "expected job.lease.farm to be hexadecimal. Received: '../../x'"),
        ({"farm": FARM, "token": 0}, "expected job.lease.token to be a whole number from 1 on. Received: 0"),
        ({"farm": FARM, "token": "5"}, "expected job.lease.token to be a whole number from 1 on"),
    ],
)
def test_a_bad_lease_is_refused_in_words(agent: Agent, lease: Any, words: str) -> None:
    error = agent.error(do="cool_down", lock=str(agent.lock), seconds=0, temperatures_c={}, lease=lease)
    assert error["kind"] == "job" and words in error["message"]


def start_hanging(agent: Agent, lease: dict[str, Any] | None) -> tuple[subprocess.Popen[bytes], Hanging]:
    """An agent whose model is in its inference, and stays there."""
    model = Hanging(agent.folder)
    job = agent.measurement(time_step("a"), models={"a": model.source}, lease=lease)
    process = agent.start(json.dumps(job).encode() + b"\n")
    model.process()
    return process, model


def test_a_job_of_an_earlier_lease_is_ended_by_the_device(agent: Agent) -> None:
    process, model = start_hanging(agent, {"farm": FARM, "token": 3})
    with process:
        assert rest(agent, 4) == {"event": "done"}
        assert model.ended()
        assert process.wait(60) == 1
        assert process.stderr and b"a later lease has the device" in process.stderr.read()


def test_a_job_that_does_not_heed_is_killed(agent: Agent) -> None:
    script = (
        "import signal, sys, time; sys.path.insert(0, sys.argv[1]); signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "from device_agents import lock; from device_agents.fence import Fence\n"
        f"with lock.held(sys.argv[2], Fence({FARM!r}, 3)): print(flush=True); time.sleep(3600)"
    )
    argv = [sys.executable, "-c", script, str(agent.archive), str(agent.lock)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as deaf:
        assert deaf.stdout and deaf.stdout.readline()
        patience = "import sys; sys.path.insert(0, sys.argv[1]); from device_agents import lock\n"
        patience += "from device_agents.fence import Fence; lock.PATIENCE_S = 0.2\n"
        patience += f"with lock.held(sys.argv[2], Fence({FARM!r}, 4)): print('mine')"
        done = subprocess.run(
            [sys.executable, "-c", patience, *argv[3:]], capture_output=True, text=True, check=True
        )
        assert done.stdout == "mine\n" and deaf.wait(60) == -9


@pytest.mark.parametrize("lease", [None, {"farm": FARM, "token": 9}, {"farm": OTHER, "token": 1}])
def test_whoever_else_has_the_device_keeps_it(agent: Agent, lease: dict[str, Any] | None) -> None:
    process, model = start_hanging(agent, lease)
    with process:
        error = rest(agent, 9)
        assert error["kind"] == "locked" and f"process {process.pid}" in error["message"]
        assert process.poll() is None
        process.kill()
    assert model.ended()


def test_a_number_that_is_another_processes_by_now_is_spared(agent: Agent) -> None:
    with subprocess.Popen(["sleep", "3600"]) as innocent, agent.lock.open("w+") as stranger:
        said = {"pid": innocent.pid, "since": "then", "farm": FARM, "token": 1, "born": "1"}
        stranger.write(json.dumps(said))
        stranger.flush()
        os.set_inheritable(stranger.fileno(), True)
        script = (
            "import fcntl, sys; sys.path.insert(0, sys.argv[1]); fcntl.flock(int(sys.argv[3]), fcntl.LOCK_EX)\n"
            "from device_agents import lock; from device_agents.fence import Fence\n"
            "from device_agents.failure import Failure\n"
            "lock.PATIENCE_S = 0.1\n"
            "try:\n"
            f"  with lock.held(sys.argv[2], Fence({FARM!r}, 2)): print('taken')\n"
            "except Failure as failure: print(failure.kind)"
        )
        argv = [sys.executable, "-c", script, str(agent.archive), str(agent.lock), str(stranger.fileno())]
        done = subprocess.run(argv, capture_output=True, text=True, check=True, pass_fds=[stranger.fileno()])
        assert done.stdout == "locked\n" and innocent.poll() is None
        innocent.kill()


@given(tokens=st.lists(st.integers(1, 12), min_size=1, max_size=20))
def test_tokens_are_only_ever_refused_below_the_highest(
    tmp_path_factory: pytest.TempPathFactory, tokens: list[int]
) -> None:
    path, highest = str(tmp_path_factory.mktemp("device") / "lock"), 0
    for token in tokens:
        if token < highest:
            with pytest.raises(Failure, match=f"token {highest}"):
                fence.remember(path, Fence(FARM, token))
        else:
            fence.remember(path, Fence(FARM, token))
        highest = max(highest, token)
        assert os.listdir(f"{path}.tokens") == [f"{FARM}.{highest}"]


def test_one_that_was_overtaken_while_it_waited_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    fence.remember(path, Fence(FARM, 1))
    # Two that asked at once: both found nothing higher.
    (tmp_path / "lock.tokens" / f"{FARM}.3").touch()
    with pytest.raises(Failure, match="token 3"):
        fence.remember(path, Fence(FARM, 1))


def test_the_host_is_told_and_a_clean_device_has_forgotten(tmp_path: Path) -> None:
    work = tmp_path / "work"
    fields = {"transport": "local", "local": {}, "workdir": str(work), "install_path": str(tmp_path / "put")}
    target = target_model().model_validate(fields)
    job: dict[str, Any] = {"seconds": 0, "temperatures_c": {}, "lock": f"{work}/lock"}
    with open_device("board", target, {"farm": FARM, "token": 2}) as device:
        device.ask("cool_down", **job)
    with open_device("board", target, {"farm": FARM, "token": 1}) as late:
        with pytest.raises(JobFailed, match=r"token 1.*lent again \(token 2\).*run it again") as told:
            late.ask("cool_down", **job)
        assert told.value.kind == "fenced"
    with open_device("board", target) as device:
        device.clean(installed=True)
    assert not work.exists()


def test_the_host_knows_a_device_that_is_busy_from_one_that_fails(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    fields = {"transport": "local", "local": {}, "workdir": str(work), "install_path": str(tmp_path / "put")}
    target = target_model().model_validate(fields)
    with (work / "lock").open("w") as stranger, open_device("board", target) as device:
        fcntl.flock(stranger, fcntl.LOCK_EX)
        with pytest.raises(DeviceBusy, match="another job has the device"):
            device.ask("cool_down", seconds=0, temperatures_c={}, lock=device.lock)

"""After the switch: golden answers, the application's restart, and the way back."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_agents import tidying
from device_agents.job import Job
from tests.agent_process import Agent

GOOD, WRONG, HALTING = "pass", "self.values[0] = self.values[0] + 1", "os._exit(3)"


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path)


def installed(agent: Agent) -> str | None:
    current = agent.folder / "installed/current/model.tflite"
    return current.read_text() if current.exists() else None


def job(agent: Agent, source: str, *command: str, **changes: Any) -> dict[str, Any]:
    """Install a model of the made-up runtime, which doubles its inputs; its golden answers are twice the inputs."""
    inputs, golden, model = (agent.folder / name for name in ("inputs.npy", "golden.npy", "new.tflite"))
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.save(inputs, rows)
    np.save(golden, 2 * rows[:2])
    model.write_text(source)
    digest = hashlib.sha256(source.encode()).hexdigest()
    check = {"inputs": str(inputs), "golden": str(golden), "bundle": str(agent.bundle())}
    return {
        "do": "install",
        "model": str(model),
        "sha256": digest,
        "manifest": {"sha256": digest, "is": source},
        "install_path": str(agent.folder / "installed"),
        "lock": str(agent.lock),
        "check": {**check, "runtime": "tflite-runtime", "threads": 1, "deadline_s": 60},
        "restart": list(command),
        "restart_deadline_s": 30,
        **changes,
    }


def test_golden_answers_are_given_again(agent: Agent) -> None:
    event = agent.answer(**job(agent, GOOD))[0]
    assert (event["health"], event["restart"]) == ({"samples": 2, "difference": 0.0}, None)


@pytest.mark.parametrize(
    ("source", "words"),
    [(WRONG, "answers otherwise"), (HALTING, "exit code 3"), ("unreadable", "flatbuffer")],
)
def test_a_model_that_is_not_well_is_taken_back(agent: Agent, source: str, words: str) -> None:
    error = agent.error(**job(agent, source))
    assert words in error["message"] and error["message"].endswith("nothing is installed now")
    assert installed(agent) is None
    agent.answer(**job(agent, GOOD))
    error = agent.error(**job(agent, source))
    assert words in error["message"] and error["message"].endswith("the version before is in place again")
    assert installed(agent) == GOOD
    assert agent.answer(do="status", install_path=str(agent.folder / "installed"))[0]["model_ok"] is True


NOTES = "import sys; open(sys.argv[1], 'a').write(open(sys.argv[2]).read() + ' ' + sys.argv[3]); print('taken up')"


def test_the_application_is_restarted_without_a_shell(agent: Agent) -> None:
    log, current = agent.folder / "log", agent.folder / "installed/current/model.tflite"
    nasty = "$(touch pwned); `id` 'x\n--"
    event = agent.answer(**job(agent, GOOD, sys.executable, "-c", NOTES, str(log), str(current), nasty))[0]
    assert event["restart"] == {"code": 0, "output": "taken up\n"}
    assert log.read_text() == f"{GOOD} {nasty}"


@pytest.mark.parametrize(
    ("script", "deadline_s", "words"),
    [
        ("print('why'); raise SystemExit(5)", 30, "ended with code 5"),
        ("import time; print('why', flush=True); time.sleep(600)", 0.5, "did not end within 0.5 s"),
    ],
)
def test_an_application_that_does_not_restart_gets_its_model_back(
    agent: Agent, script: str, deadline_s: float, words: str
) -> None:
    agent.answer(**job(agent, GOOD))
    log = agent.folder / "log"
    script = f"open({str(log)!r}, 'a').write('x'); {script}"
    other = "pass # another"
    error = agent.error(**job(agent, other, sys.executable, "-c", script, restart_deadline_s=deadline_s))
    assert error["kind"] == "restart"
    assert words in error["message"] and "the version before is in place again" in error["message"]
    assert "did not take it up" in error["message"]
    assert log.read_text() == "xx"  # once more, for the model that came back
    assert "why" in error["stderr"]
    assert installed(agent) == GOOD


def test_a_command_that_is_not_there(agent: Agent) -> None:
    error = agent.error(**job(agent, GOOD, "no-such-command"))
    assert "after_install: no-such-command: No such file" in error["message"]
    assert installed(agent) is None


def test_a_service_that_lives_on_holds_nothing_up(agent: Agent) -> None:
    pid = agent.folder / "pid"
    agent.answer(**job(agent, GOOD, "sh", "-c", 'sleep 600 & echo $! > "$0"', str(pid)))
    os.kill(int(pid.read_text()), 9)


def test_rolling_back_and_forth(agent: Agent) -> None:
    place = {"do": "rollback", "install_path": str(agent.folder / "installed"), "lock": str(agent.lock)}
    assert "no version before" in agent.error(**place)["message"]
    agent.answer(**job(agent, GOOD))
    assert "no version before" in agent.error(**place)["message"]
    agent.answer(**job(agent, "pass # two"))
    event = agent.answer(**place, restart=["true"], restart_deadline_s=30)[0]
    assert (event["event"], event["manifest"]["is"], event["restart"]["code"]) == ("rolled back", GOOD, 0)
    assert installed(agent) == GOOD
    assert agent.error(**place, restart=["false"], restart_deadline_s=30)["kind"] == "restart"
    assert installed(agent) == GOOD
    agent.answer(**place)
    assert installed(agent) == "pass # two"
    (
        agent.folder / "installed/versions" / hashlib.sha256(GOOD.encode()).hexdigest()[:16] / "model.tflite"
    ).write_text("damaged")
    assert "is damaged" in agent.error(**place)["message"]
    assert installed(agent) == "pass # two"


def test_what_failed_is_no_version_to_go_back_to(agent: Agent) -> None:
    place = {"do": "rollback", "install_path": str(agent.folder / "installed"), "lock": str(agent.lock)}
    agent.answer(**job(agent, GOOD))
    agent.answer(**job(agent, "pass # two"))
    assert agent.error(**job(agent, "pass # three", "false"))["kind"] == "restart"
    assert installed(agent) == "pass # two"
    agent.answer(**place)
    assert installed(agent) == GOOD


def test_two_hosts_make_room_at_once(tmp_path: Path) -> None:
    """What one has listed, the other removes: injected between the two."""
    folder = tmp_path / "objects"
    folder.mkdir()
    for name in "abc":
        (folder / name).write_bytes(b"x" * 100)
        os.utime(folder / name, (1, 1))
    rules = Job({"folders": [str(folder)], "quota_bytes": 0, "unused_s": 10, "recent_s": 0})

    def meanwhile(path: str) -> int:
        (folder / "b").unlink(missing_ok=True)
        return os.lstat(path).st_size if os.path.exists(path) else 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tidying, "size_of", meanwhile)
        assert len(tidying.make_room(rules, (), 0)) == 3
    assert list(folder.iterdir()) == []
    assert tidying.size_of(str(folder / "b")) == 0

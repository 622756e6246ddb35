"""Installing a model: both files at once, the previous kept, whole wherever the power fails."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from device_agents import installation
from device_agents.job import Job
from tests.agent_process import Agent, small_disk


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path)


def _install_job(agent: Agent, content: bytes, **changes: Any) -> dict[str, Any]:
    model = agent.folder / "inbox.tflite"
    model.write_bytes(content)
    digest = _digest(content)
    return {
        "do": "install",
        "model": str(model),
        "sha256": digest,
        "manifest": {"sha256": digest, "is": content.decode()},
        "install_path": str(agent.folder / "installed"),
        "lock": str(agent.lock),
        **changes,
    }


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _status(agent: Agent) -> dict[str, Any]:
    return agent.answer(do="status", install_path=str(agent.folder / "installed"))[0]


def test_install_switches_and_keeps_the_previous(agent: Agent) -> None:
    assert _status(agent) == {"event": "status", "installed": False, "manifest": None, "model_ok": None}
    one, two = _install_job(agent, b"one"), _install_job(agent, b"two")
    agent.folder.joinpath("inbox.tflite").write_bytes(b"one")
    path = str(agent.folder / "installed/current/model.tflite")
    unasked = {"health": None, "restart": None}
    assert agent.answer(**one)[0] == {"event": "installed", "path": path, "previous": None, **unasked}
    assert _status(agent) == {
        "event": "status",
        "installed": True,
        "manifest": one["manifest"],
        "model_ok": True,
    }
    agent.folder.joinpath("inbox.tflite").write_bytes(b"two")
    assert agent.answer(**two)[0] == {
        "event": "installed",
        "path": path,
        "previous": one["sha256"],
        **unasked,
    }
    assert _status(agent) == {
        "event": "status",
        "installed": True,
        "manifest": two["manifest"],
        "model_ok": True,
    }

    versions = agent.folder / "installed/versions"
    assert versions.joinpath(one["sha256"][:16], "model.tflite").read_bytes() == b"one"
    assert os.readlink(agent.folder / "installed/current") == f"versions/{two['sha256'][:16]}"
    again = agent.answer(**{**two, "manifest": {"sha256": two["sha256"], "another": "run"}})[0]
    assert again["previous"] == two["sha256"]
    assert _status(agent)["manifest"]["another"] == "run"
    assert versions.joinpath(one["sha256"][:16]).is_dir()

    agent.answer(**_install_job(agent, b"three"))
    assert sorted(os.listdir(versions)) == sorted(
        digest[:16] for digest in (two["sha256"], _digest(b"three"))
    )


def test_status_sees_a_damaged_model(agent: Agent) -> None:
    job = _install_job(agent, b"one")
    agent.answer(**job)
    model = agent.folder / "installed/current/model.tflite"
    model.write_bytes(b"onf")
    assert _status(agent)["model_ok"] is False
    model.unlink()
    assert _status(agent)["model_ok"] is False
    agent.answer(**job)
    assert _status(agent) == {
        "event": "status",
        "installed": True,
        "manifest": job["manifest"],
        "model_ok": True,
    }


@pytest.mark.parametrize("damaged", ["", "[]", "{}", '{"sha256": "another"}'])
def test_status_sees_a_damaged_manifest(agent: Agent, damaged: str) -> None:
    agent.answer(**_install_job(agent, b"one"))
    agent.folder.joinpath("installed/current/manifest.json").write_text(damaged)
    said = _status(agent)
    assert said["installed"] is True and said["model_ok"] is False
    assert said["manifest"] is None or said["manifest"] == {"sha256": "another"}


def test_a_model_of_another_digest_is_not_installed(agent: Agent) -> None:
    error = agent.error(**_install_job(agent, b"one", sha256="0" * 64))
    assert error["kind"] == "job"
    assert "send it again" in error["message"]
    assert _status(agent)["manifest"] is None


class PowerCut(BaseException):
    """Nothing catches it."""


def _cut_power_before(call: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Fail the n-th call of whatever makes something last; returns how many there have been."""
    calls = 0

    def cut(real: Callable[..., Any]) -> Callable[..., Any]:
        def maybe(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > call:
                raise PowerCut
            return real(*arguments, **named)

        return maybe

    for name in ("replace", "fsync", "symlink", "unlink", "makedirs"):
        monkeypatch.setattr(os, name, cut(getattr(os, name)))
    return lambda: calls


def test_install_is_whole_wherever_the_power_fails(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def status() -> Any:
        installation.status(Job({"install_path": str(agent.folder / "installed")}), seen.append)
        return seen[-1]

    installation.install(Job(_install_job(agent, b"first")), seen.append)
    for call in range(100):
        job, before = _install_job(agent, f"model {call}".encode()), status()
        with monkeypatch.context() as patch, contextlib.suppress(PowerCut):
            counted = _cut_power_before(call, patch)
            installation.install(Job(job), seen.append)
        now = status()
        assert now["model_ok"] is True
        assert now["manifest"] in (before["manifest"], job["manifest"])
        model = agent.folder.joinpath("installed/current/model.tflite").read_text()
        assert now["manifest"]["is"] == model
        installation.install(Job(job), seen.append)
        assert status() == {
            "event": "status",
            "installed": True,
            "manifest": job["manifest"],
            "model_ok": True,
        }
        if counted() <= call:
            break
    else:
        pytest.fail("an install never came to its end")
    kept = {path.read_text() for path in agent.folder.joinpath("installed/versions").glob("*/model.tflite")}
    assert kept == {f"model {call - 1}", f"model {call}"}


def test_a_full_disk_is_said_to_be_full(agent: Agent) -> None:
    small = small_disk(agent.folder / "small")
    job = _install_job(agent, b"x" * 100_000, install_path=str(agent.folder / "small/installed"))
    error = agent.answer(**job, before=small)[0]
    assert (error["event"], error["kind"]) == ("error", "disk")
    assert "No space left on device" in error["message"]

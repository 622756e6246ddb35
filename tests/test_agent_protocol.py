"""The agent as a process: what goes in and out, who holds the lock, and that nothing outlives its host."""

from __future__ import annotations

import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from targets.agent_archive import build_agent
from tests.agent_process import Agent, Hanging, time_step


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", "expected one line of JSON"),
        (b"{nonsense\n", "expected one line of JSON"),
        (b"\xff\xfe\n", "expected one line of JSON"),
        (b"[1]\n", "expected the job to be an object"),
        (b"{}\n", "expected protocol version 1. Received: None"),
        (b'{"version": 2, "do": "hash"}\n', "expected protocol version 1. Received: 2"),
        (b'{"version": 1}\n', "expected job.do to be a string. Received: nothing"),
        (
            b'{"version": 1, "do": "dance"}\n',
            "clean, install, rollback, status, trial, measure, cool_down. Received: 'dance'",
        ),
        (b'{"version": 1, "do": "hash", "paths": "x"}\n', "expected job.paths to be a list of strings"),
        (
            b'{"version": 1, "do": "verify", "folder": 3, "digest": ""}\n',
            "expected job.folder to be a string",
        ),
    ],
)
def test_a_bad_job_is_refused_in_words(agent: Agent, line: bytes, words: str) -> None:
    if not line.endswith(b"\n"):
        with agent.start(line) as process:
            out, _ = process.communicate()
        events = [json.loads(out)]
    else:
        events = agent.answer_line(line)
    assert len(events) == 1
    assert (events[0]["event"], events[0]["kind"], events[0]["step"]) == ("error", "job", None)
    assert words in events[0]["message"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"steps": [{"kind": "dance", "variant": "a"}]},
            "expected job.steps[0].kind to be evaluate, time, cold, profile, sustain or spend",
        ),
        ({"steps": [time_step("b")]}, "expected job.variants.b to be a string. Received: nothing"),
        (
            {"variants": {"a": "/nowhere"}},
            "expected job.variants.a to be a file on the device. Received: '/nowhere'",
        ),
        ({"inputs": "/nowhere"}, "expected job.inputs to be a file on the device"),
        ({"threads": 0}, "expected job.threads to be a whole number from 1 on. Received: 0"),
        ({"threads": True}, "expected job.threads to be a whole number from 1 on. Received: True"),
        ({"protocol": {"min_samples": 3}}, "expected job.protocol.warmup_runs to be a whole number"),
        ({"step_deadline_s": "1"}, "expected job.step_deadline_s to be a number of seconds. Received: '1'"),
        ({"runtime": "onnx"}, "one of ai-edge-litert, tensorflow, tflite-runtime. Received: 'onnx'"),
        ({"runtime": "ai-edge-litert"}, "ai-edge-litert cannot be imported"),
    ],
)
def test_a_bad_measurement_is_refused_in_words(agent: Agent, changes: dict[str, Any], words: str) -> None:
    error = agent.error(**{**agent.measurement(time_step("a"), models={"a": ""}), **changes})
    assert error["kind"] == "job"
    assert words in error["message"]


def test_prints_of_a_child_do_not_reach_the_protocol(agent: Agent) -> None:
    noise = "os.write(1, b'native noise\\n'); print('python noise'); os.write(2, b'stderr noise\\n')"
    events = agent.answer(**agent.measurement(time_step("noisy"), models={"noisy": noise}))
    assert [event["event"] for event in events] == ["environment", "repetition", "environment", "done"]


def test_a_lock_that_another_agent_holds_names_its_holder(agent: Agent) -> None:
    model = Hanging(agent.folder)
    job = agent.measurement(time_step("a"), models={"a": model.source})
    with agent.start(json.dumps(job).encode() + b"\n") as holder:
        model.process()
        error = agent.error(**job)
        holder.kill()
    assert error["kind"] == "locked"
    assert f"process {holder.pid} since 20" in error["message"]
    assert model.ended()


def test_a_lock_held_by_a_stranger_is_told_too(agent: Agent) -> None:
    with agent.lock.open("w") as stranger:
        fcntl.flock(stranger, fcntl.LOCK_EX)
        error = agent.error(**agent.measurement(time_step("a"), models={"a": ""}))
    assert error["kind"] == "locked"


def test_what_a_lock_file_still_says_is_harmless(agent: Agent) -> None:
    agent.lock.write_text(
        '{"pid": 1, "since": "2001-01-01T00:00:00Z", "padding": "............................"}'
    )
    events = agent.answer(**agent.measurement(time_step("a"), models={"a": ""}))
    assert events[-1] == {"event": "done"}
    assert set(json.loads(agent.lock.read_text())) == {"pid", "since"}


def _close_input(agent: subprocess.Popen[bytes]) -> None:
    assert agent.stdin
    agent.stdin.close()


@pytest.mark.parametrize(
    ("end", "returncode"),
    [
        (_close_input, 1),
        (lambda agent: agent.terminate(), 1),
        (lambda agent: agent.send_signal(signal.SIGHUP), 1),
        (lambda agent: agent.kill(), -signal.SIGKILL),
    ],
    ids=["host gone", "SIGTERM", "SIGHUP", "SIGKILL"],
)
def test_the_end_of_an_agent_ends_its_child_and_frees_the_lock(
    agent: Agent, end: Any, returncode: int
) -> None:
    model = Hanging(agent.folder)
    job = agent.measurement(time_step("a"), models={"a": model.source})
    with agent.start(json.dumps(job).encode() + b"\n") as process:
        model.process()
        with agent.lock.open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        end(process)
        assert process.wait(60) == returncode
    assert model.ended()
    with agent.lock.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_an_agent_that_nobody_reads_gives_up(agent: Agent) -> None:
    os.mkfifo(agent.folder / "go")
    go = os.open(agent.folder / "go", os.O_RDWR)
    waits = f"open({str(agent.folder / 'go')!r}).readline()"
    job = agent.measurement({"kind": "evaluate", "variant": "a", "outputs": "o.npy"}, models={"a": waits})
    np.save(job["inputs"], np.zeros((1, 3), np.float32))
    with agent.start(json.dumps(job).encode() + b"\n") as process:
        assert process.stdout and process.stderr
        assert json.loads(process.stdout.readline())["event"] == "environment"
        process.stdout.close()
        os.write(go, b"go\n")
        assert b"the host has gone" in process.stderr.read()
        os.close(go)
    assert process.returncode == 1


def test_a_worker_ends_with_its_input_even_where_the_kernel_does_not_kill_it(agent: Agent) -> None:
    model = Hanging(agent.folder)
    job = agent.measurement(models={"a": model.source})
    request = {
        "kind": "evaluate", "variant": "a", "model": job["variants"]["a"], "outputs": str(agent.folder / "unused.npy"),
        "setting": {"threads": 1, "xnnpack": True, "delegate": None, "options": {}},
        **{key: job[key] for key in ("inputs", "bundle", "runtime")},
    }  # fmt: skip
    argv = [sys.executable, "-I", "-S", str(agent.archive), "worker"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as worker:
        assert worker.stdin
        worker.stdin.write(json.dumps(request).encode() + b"\n")
        worker.stdin.flush()
        try:
            assert model.process() == worker.pid
            worker.stdin.close()
            assert worker.wait(60) == 1
        finally:
            worker.kill()
    assert model.ended()


def test_the_archive_is_the_same_bytes_every_time_and_has_one_entry() -> None:
    first, second = build_agent(), build_agent()
    assert first == second
    with zipfile.ZipFile(io.BytesIO(first[0])) as archive:
        names = archive.namelist()
        assert archive.read("__main__.py") == archive.read("device_agents/__main__.py")
    assert names == sorted(names)
    assert "device_agents/runtimes/tflite_runtime.py" in names
    assert all(name.endswith(".py") for name in names)


def test_the_sources_are_python_3_9() -> None:
    import ast

    with zipfile.ZipFile(io.BytesIO(build_agent()[0])) as archive:
        for name in archive.namelist():
            tree = ast.parse(archive.read(name), name, feature_version=(3, 9))
            assert not any(isinstance(node, ast.Match) for node in ast.walk(tree))

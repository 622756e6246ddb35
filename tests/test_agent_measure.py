"""A measuring session: each step in a fresh process, in order; every way in which one can fail."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_agents.failure import Failure
from device_agents.rows import Rows
from tests.agent_process import Agent, Hanging, small_disk, time_step

TELLS = "open({log!r}, 'a').write(f'{{os.getpid()}} {name}\\n')"


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path)


def _evaluate(variant: str, outputs: Path) -> dict[str, Any]:
    return {"kind": "evaluate", "variant": variant, "outputs": str(outputs)}


def test_steps_run_in_order_and_each_in_a_fresh_process(agent: Agent) -> None:
    log, outputs = agent.folder / "log", agent.folder / "new folder" / "outputs.npy"
    models = {name: TELLS.format(log=str(log), name=name) for name in "AB"}
    steps = [_evaluate("A", outputs), *map(time_step, "ABBA")]
    events = agent.answer(**agent.measurement(*steps, models=models))
    assert [(event["event"], event.get("step"), event.get("variant")) for event in events] == [
        ("environment", None, None),
        ("evaluated", 0, "A"),
        ("repetition", 1, "A"),
        ("repetition", 2, "B"),
        ("repetition", 3, "B"),
        ("repetition", 4, "A"),
        ("environment", None, None),
        ("done", None, None),
    ]
    assert [events[0]["when"], events[-2]["when"]] == ["before", "after"]
    runs = [line.split() for line in log.read_text().splitlines()]
    # Two inputs evaluated; then in each repetition the first inference, 2 warm-ups, 3 samples.
    assert "".join(name for _, name in runs) == "AA" + 6 * "A" + 12 * "B" + 6 * "A"
    assert len({pid for pid, _ in runs}) == 5


def test_evaluated_outputs_are_the_models_own(agent: Agent) -> None:
    outputs = agent.folder / "outputs.npy"
    events = agent.answer(**agent.measurement(_evaluate("a", outputs), models={"a": ""}))
    stacked = np.load(outputs)
    np.testing.assert_array_equal(stacked, 2 * np.arange(6, dtype=np.float32).reshape(2, 3))
    assert stacked.dtype == np.float32
    assert events[1] == {
        "event": "evaluated",
        "step": 0,
        "variant": "a",
        "samples": 2,
        "outputs": str(outputs),
        "sha256": hashlib.sha256(outputs.read_bytes()).hexdigest(),
        "operators": {
            "reason": "tflite-runtime made up does not tell: Interpreter.__init__() got an unexpected keyword argument"
            " 'experimental_delegates'"
        },
    }


def test_a_runtime_that_is_taken_down_by_a_look_still_answers(agent: Agent) -> None:
    interpreter = agent.bundle() / "tflite_runtime/interpreter.py"
    source = interpreter.read_text()
    looked = "def __init__(self, model_path, num_threads, experimental_delegates=None):"
    source = source.replace(
        "def __init__(self, model_path, num_threads):",
        f"{looked}\n        experimental_delegates and os.abort()",
    )
    interpreter.write_text(source)
    outputs = agent.folder / "outputs.npy"
    steps = [_evaluate("a", outputs), {"kind": "profile", "variant": "a", "seconds": 0.1}, time_step("a")]
    _, evaluated, profiled, repetition, *_ = agent.answer(**agent.measurement(*steps, models={"a": ""}))
    assert len(np.load(outputs)) == 2 and repetition["event"] == "repetition"
    for event in (evaluated, profiled):
        reason = event["operators"]["reason"]
        assert reason == "looking at what runs failed: its process ended by SIGABRT and left no result"


def test_rows_make_the_file_that_an_array_makes(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)
    with Rows(str(tmp_path / "new/rows.npy"), len(array)) as rows:
        for row in array:
            rows.add(row)
    np.save(tmp_path / "array.npy", array)
    np.testing.assert_array_equal(np.load(tmp_path / "new/rows.npy", mmap_mode="r"), array)
    with pytest.raises(Failure, match="outputs of one shape"), Rows(str(tmp_path / "none.npy"), 2) as rows:
        rows.add(array[0])
        rows.add(array[0, 0])
    assert not list(tmp_path.glob("none*"))


def test_a_repetition_keeps_every_raw_figure(agent: Agent) -> None:
    event = agent.answer(**agent.measurement(time_step("a"), models={"a": ""}, threads=3))[1]
    assert set(event) == {
        "event", "step", "variant", "load_ns", "first_ns", "warmup_ns", "samples_ns",
        "steady", "waited_ns", "environment", "memory", "clock", "threads", "versions", "operators",
        "paced",
    }  # fmt: skip
    assert (len(event["warmup_ns"]), len(event["samples_ns"])) == (2, 3)
    assert min([event["load_ns"], event["first_ns"], *event["warmup_ns"], *event["samples_ns"]]) > 0
    assert list(event["memory"]) == ["before_load", "after_load", "after_first", "steady"]
    for memory in event["memory"].values():
        assert set(memory) == {"rss", "hwm", "anonymous", "file", "swap", "pss", "rss_by_page", "model"}
    assert event["clock"]["resolution_ns"] >= 1
    assert event["threads"] == 3
    assert event["versions"]["numpy"] == np.__version__
    assert (event["versions"]["runtime"], event["versions"]["runtime_version"]) == (
        "tflite-runtime",
        "made up",
    )
    assert event["operators"] is None


def test_an_environment_is_observed_before_and_after(agent: Agent) -> None:
    events = agent.answer(**agent.measurement(models={"a": ""}))
    assert [event.get("when") for event in events] == ["before", "after", None]
    before, after = events[:2]
    assert before["userland_bits"] in (32, 64)
    assert 1 <= before["usable_cores"] <= before["cores"]
    assert before["memory"]["total"] > before["memory"]["available"] > 0
    assert after["clocks_s"]["monotonic"] > before["clocks_s"]["monotonic"]
    assert after["clocks_s"]["boottime"] > before["clocks_s"]["boottime"]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV"),
        ("os.abort()", "ended by SIGABRT"),
        ("os._exit(7)", "ended by exit code 7"),
        ("os._exit(0)", "ended by exit code 0"),
        ("1 / 0", "ended by exit code 1"),
    ],
)
def test_a_crash_names_its_signal_and_keeps_the_last_words(agent: Agent, model: str, words: str) -> None:
    last_words = "os.write(2, b'x' * 100000 + b' at the very end')\n"
    error = agent.error(
        **agent.measurement(time_step("ok"), time_step("a"), models={"ok": "", "a": last_words + model})
    )
    assert (error["kind"], error["step"]) == ("crashed", 1)
    assert error["message"].startswith("step 1 (time a): its process")
    assert words in error["message"]
    assert "at the very end" in error["stderr"]
    assert len(error["stderr"]) <= 8192


@pytest.mark.parametrize("model", ["while True: pass", "os.close(1); os.close(2); time.sleep(3600)"])
def test_a_hang_ends_at_its_deadline(agent: Agent, model: str) -> None:
    said = "os.write(2, b'still busy'); "
    job = agent.measurement(time_step("a"), models={"a": said + "\n" + model}, step_deadline_s=1)
    error = agent.error(**job)
    assert (error["kind"], error["step"], error["stderr"]) == ("deadline", 0, "still busy")
    assert "deadline of 1 s" in error["message"]


def test_a_deadline_ends_what_the_child_started_too(agent: Agent) -> None:
    grandchild = Hanging(agent.folder)
    forks = f"if os.fork(): time.sleep(3600)\n{grandchild.source}"
    job = agent.measurement(time_step("a"), models={"a": forks}, step_deadline_s=2)
    with agent.start(json.dumps(job).encode() + b"\n") as process:
        grandchild.process()
        assert process.wait(60) == 1
    assert grandchild.ended()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("unreadable", "tflite-runtime made up cannot load"),
        ("raise RuntimeError('node 3 failed to invoke')", "cannot be run: node 3 failed to invoke"),
    ],
)
def test_a_model_the_runtime_refuses_is_told_in_its_words(agent: Agent, model: str, words: str) -> None:
    error = agent.error(**agent.measurement(time_step("a"), models={"a": model}))
    assert (error["kind"], error["step"]) == ("model", 0)
    assert words in error["message"]


@pytest.mark.parametrize("kind", ["evaluate", "time"])
@pytest.mark.parametrize(
    ("inputs", "kind_of_error", "words"),
    [
        (np.zeros((2, 4), np.float32), "model", "takes float32 1x3. Received: inputs of float32 1x4"),
        (np.zeros((2, 1, 3), np.float32), "model", "takes float32 1x3. Received: inputs of float32 1x1x3"),
        (
            np.zeros((2, 3), np.float64),
            "model",
            "takes float32 1x3. Received: inputs of float64 1x3",
        ),
        (
            np.array([["text"] * 3]),
            "job",
            "numbers of at least one input, N x input shape. Received: <U4 1x3",
        ),
        (np.zeros((0, 3), np.float32), "job", "Received: float32 0x3"),
        (np.zeros(3, np.float32), "job", "Received: float32 3"),
        (np.array([object()]), "job", "to be a .npy file of inputs"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    agent: Agent, kind: str, inputs: Any, kind_of_error: str, words: str
) -> None:
    step = {"kind": kind, "variant": "a", "outputs": "o.npy"}
    job = agent.measurement(step, models={"a": ""})
    np.save(job["inputs"], inputs, allow_pickle=True)
    error = agent.error(**job)
    assert (error["kind"], error["step"]) == (kind_of_error, 0)
    assert words in error["message"]
    assert not agent.folder.joinpath("o.npy").exists()


def test_a_full_disk_is_said_to_be_full(agent: Agent) -> None:
    small = small_disk(agent.folder / "small")
    large = "self.values[0] = np.zeros((1, 20000), np.float32)"
    job = agent.measurement(_evaluate("a", agent.folder / "small/outputs.npy"), models={"a": large})
    error = agent.answer(**job, before=small)[-1]
    assert (error["event"], error["kind"], error["step"]) == ("error", "disk", 0)
    assert "No space left on device" in error["message"]

"""The real runtimes: the agent measures a real model on each, and its outputs are right."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_agents import runtimes
from pipeline.artifacts import file_digest
from pipeline.measurement.operators import Operators
from pipeline.models.samples import NamedArrays, by_name
from pipeline.sparse_tflite.host_interpreter import outputs_on_host
from pipeline.sparse_tflite.signature import read_signature
from pipeline.sparse_tflite.storing import make_sparse
from tests import external_delegate
from tests.agent_process import PROTOCOL, Agent, time_step
from tests.models_for_tests import write_absolute_model, write_dense_model, write_model_of_several_ports
from tests.tflite_files import matrix_file

PACKAGES = {"tflite-runtime": "tflite-runtime==2.14.0", "ai-edge-litert": "ai-edge-litert==2.3.0"}
Bundle = tuple[str, Path | None]


@pytest.fixture(scope="module", params=runtimes.names())
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A runtime's name, and a folder that holds it and its numpy; TensorFlow is that of this Python."""
    runtime = request.param
    if runtime not in PACKAGES:
        return runtime, None
    if runtime == "tflite-runtime" and sys.version_info >= (3, 12):
        pytest.skip("tflite-runtime has no wheels for this Python")
    folder = tmp_path_factory.mktemp(runtime)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*install, "--target", str(folder), PACKAGES[runtime], "numpy<2"], check=True)
    return runtime, folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path = tmp_path_factory.mktemp("model") / "dense.tflite"
    return path, write_dense_model(path)


def _job(agent: Agent, bundle: Bundle, model: Path, *steps: dict[str, Any]) -> dict[str, Any]:
    inputs = agent.folder / "inputs.npy"
    if not inputs.exists():
        np.save(inputs, np.random.default_rng(3).normal(size=(5, 4)).astype(np.float32))
    return {
        "do": "measure",
        "lock": str(agent.lock),
        "bundle": None if bundle[1] is None else str(bundle[1]),
        "runtime": bundle[0],
        "threads": 1,
        "variants": {"dense": str(model)},
        "inputs": str(inputs),
        "steps": list(steps),
        "protocol": PROTOCOL,
        "step_deadline_s": 120,
    }


def _evaluate(agent: Agent) -> dict[str, Any]:
    return {"kind": "evaluate", "variant": "dense", "outputs": str(agent.folder / "outputs.npy")}


def test_a_runtime_gives_right_outputs_and_sane_figures(
    bundle: Bundle, model: tuple[Path, Any], tmp_path: Path
) -> None:
    agent = Agent(tmp_path)
    job = _job(agent, bundle, model[0], _evaluate(agent), time_step("dense"))
    _, evaluated, repetition, _, done = agent.answer(**job)
    assert done == {"event": "done"}
    assert evaluated["samples"] == 5
    expected = model[1](np.load(job["inputs"]))
    np.testing.assert_allclose(np.load(evaluated["outputs"]), expected, rtol=1e-5, atol=1e-6)

    assert repetition["versions"]["runtime"] == bundle[0]
    if bundle[1] is None:
        assert repetition["versions"]["runtime_version"] == metadata.version(bundle[0])
    else:
        assert repetition["versions"]["runtime_version"] == PACKAGES[bundle[0]].partition("==")[2]
        assert repetition["versions"]["numpy"].startswith("1.")
    assert repetition["operators"] == ["DELEGATE"]
    before, *later = repetition["memory"].values()
    for memory in later:
        assert memory["rss"] <= memory["hwm"] < before["rss"] + 50e6
        assert memory["anonymous"] + memory["file"] == pytest.approx(memory["rss"], rel=0.01)


def test_a_runtime_says_why_it_refuses_a_model(bundle: Bundle, tmp_path: Path) -> None:
    agent, noise = Agent(tmp_path), tmp_path / "noise.tflite"
    noise.write_bytes(b"no flatbuffer, but as long as one" * 100)
    error = agent.error(**_job(agent, bundle, noise, _evaluate(agent)))
    assert (error["kind"], error["step"]) == ("model", 0)
    assert f"cannot load {noise}: " in error["message"]


def test_inputs_of_another_shape_are_refused_before_they_run(
    bundle: Bundle, model: tuple[Path, Any], tmp_path: Path
) -> None:
    agent = Agent(tmp_path)
    np.save(tmp_path / "inputs.npy", np.zeros((1, 5), np.float32))
    error = agent.error(**_job(agent, bundle, model[0], _evaluate(agent)))
    assert error["kind"] == "model"
    assert "takes float32 1x4. Received: inputs of float32 1x5" in error["message"]


def test_several_inputs_and_outputs_are_served_by_their_names(bundle: Bundle, tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    answer = write_model_of_several_ports(tmp_path / "ports.tflite")
    random = np.random.default_rng(0)
    given = {"numbers": random.normal(size=(5, 2)).astype(np.float32)}
    given["tokens"] = random.integers(0, 6, (5, 3)).astype(np.int32)
    for name, array in given.items():
        np.save(tmp_path / f"{name}.npy", array)
    step = {"kind": "evaluate", "variant": "dense"}
    step["outputs"] = {name: str(tmp_path / f"{name}.npy") for name in ("sum", "looked_up")}
    job = _job(agent, bundle, tmp_path / "ports.tflite", step, time_step("dense"))
    job["inputs"] = {name: str(tmp_path / f"{name}.npy") for name in given}
    _, evaluated, repetition, _, _ = agent.answer(**job)
    for name, expected in answer(given["tokens"], given["numbers"]).items():
        np.testing.assert_allclose(np.load(evaluated["outputs"][name]), expected, rtol=1e-5, atol=1e-6)
        assert evaluated["sha256"][name] == file_digest(Path(evaluated["outputs"][name]))
    assert len(repetition["samples_ns"]) >= 3
    for key, changed, words in (
        ("inputs", {"numbers": job["inputs"]["numbers"]}, "the inputs numbers, tokens. Received: numbers"),
        ("inputs", job["inputs"]["numbers"], "Received: a single one, without a name"),
        ("inputs", {**job["inputs"], "tokens": job["inputs"]["numbers"]}, "takes int32 1x3 as tokens"),
        ("outputs", {"sum": step["outputs"]["sum"]}, "the outputs sum, looked_up. Received: sum"),
    ):
        wrong = {**job, "inputs": changed} if key == "inputs" else {**job, "steps": [{**step, key: changed}]}
        assert words in agent.error(**wrong)["message"]


def test_integers_at_the_ends_are_asked_and_answer_in_real_numbers(bundle: Bundle, tmp_path: Path) -> None:
    agent, path, random = Agent(tmp_path), tmp_path / "whole.tflite", np.random.default_rng(0)
    given = {"numbers": random.normal(size=(64, 2)).astype(np.float32)}
    given["tokens"] = random.integers(0, 6, (64, 3)).astype(np.int32)
    answer = write_model_of_several_ports(path, given)
    for name, array in given.items():
        np.save(tmp_path / f"{name}.npy", array)
    step = {"kind": "evaluate", "variant": "dense"}
    step["outputs"] = {name: str(tmp_path / f"{name}.npy") for name in ("sum", "looked_up")}
    job = _job(agent, bundle, path, step, time_step("dense"))
    job["inputs"] = {name: str(tmp_path / f"{name}.npy") for name in given}
    _, evaluated, repetition, _, _ = agent.answer(**job)
    signature = read_signature(path.read_bytes(), "whole.tflite")
    assert [port.dtype for port in (*signature.inputs, *signature.outputs)] == [
        *("int8", "int32"),
        *("int8", "int8"),
    ]
    on_host, expected = by_name(outputs_on_host(path.read_bytes(), NamedArrays(given))), answer(**given)
    for port in signature.outputs:
        found = np.load(evaluated["outputs"][port.name])
        assert found.dtype == np.float32 and port.scale is not None
        np.testing.assert_allclose(found, on_host[port.name], atol=1.01 * port.scale)
        np.testing.assert_allclose(found, expected[port.name], atol=4 * port.scale)
    assert len(repetition["samples_ns"]) >= 3


def test_xnnpack_and_an_external_delegate_are_as_the_target_says(
    bundle: Bundle, tmp_path: Path, library: Path
) -> None:
    agent, path = Agent(tmp_path), tmp_path / "absolute.tflite"
    answer = write_absolute_model(path)
    plain, delegated = ["FLOOR", "ABS", "CEIL"], ["FLOOR", "DELEGATE", "CEIL"]
    given = {"path": str(library), "options": {"depth": 3}}
    for xnnpack, delegate, operators in (
        (True, None, ["DELEGATE"]),
        (False, None, plain),
        (False, given, delegated),
        (True, given, 3 * ["DELEGATE"]),
    ):
        job = _job(agent, bundle, path, _evaluate(agent), time_step("dense"))
        job |= {"xnnpack": xnnpack, "delegate": delegate}
        events = agent.answer(**job)
        assert events[2]["operators"] == operators
        np.testing.assert_array_equal(np.load(events[1]["outputs"]), answer(np.load(job["inputs"])))


def test_what_ran_is_told_and_timed(bundle: Bundle, tmp_path: Path, library: Path) -> None:
    agent, path = Agent(tmp_path), tmp_path / "absolute.tflite"
    write_absolute_model(path)
    profile = {"kind": "profile", "variant": "dense", "seconds": 0.01}
    job = _job(agent, bundle, path, _evaluate(agent), profile)
    job["delegate"] = {"path": str(library), "options": {}}
    _, evaluated, profiled, *_ = agent.answer(**job)
    for event, timed in ((evaluated, False), (profiled, True)):
        found = Operators.model_validate(event["operators"])
        assert [(node.by, node.took) for node in found.nodes] == [
            ("TfLiteXNNPackDelegate", ("FLOOR",)),
            ("OnlyAbs", ("ABS",)),
            ("TfLiteXNNPackDelegate", ("CEIL",)),
        ]
        assert [bool(node.kernels) for node in found.nodes] == [True, False, True]
        assert [node.sparse for node in found.nodes] == [False, None, False]
        assert [node.ns is not None and node.ns > 0 for node in found.nodes] == 3 * [timed]
        assert (found.account is not None) is timed and (found.runs > 0) is timed
        assert found.sentences == (
            "XNNPACK took 2 of 3 operators in 2 parts",
            "OnlyAbs took 1 of 3 operators",
            "sparse kernels: not told",
        )


def test_a_sparse_kernel_of_the_runtimes_own_is_told(bundle: Bundle, tmp_path: Path) -> None:
    agent, matrix = Agent(tmp_path), np.zeros((512, 4), np.float32)
    matrix[::8, 2] = 1
    dense = matrix_file(matrix, at="dense")
    for content, ran in ((dense, "none ran"), (make_sparse(dense)[0], "FULLY_CONNECTED ran")):
        path = tmp_path / "matrix.tflite"
        path.write_bytes(content)
        job = _job(agent, bundle, path, _evaluate(agent))
        found = Operators.model_validate(agent.answer(**job)[1]["operators"])
        assert found.sentences[-1] == f"sparse kernels: {ran}"


def test_a_delegate_that_does_not_serve_is_told(bundle: Bundle, tmp_path: Path, library: Path) -> None:
    agent, none = Agent(tmp_path), tmp_path / "none.so"
    none.write_bytes(b"no library")
    write_absolute_model(tmp_path / "absolute.tflite")
    for delegate, words in (
        ({"path": str(none), "options": {}}, f"cannot use the delegate {none}: "),
        ({"path": str(library), "options": {"refuse": "no such unit"}}, "no such unit"),
        ({"path": str(tmp_path / "gone.so"), "options": {}}, "job.delegate.path to be a file on the device"),
    ):
        job = _job(agent, bundle, tmp_path / "absolute.tflite", _evaluate(agent)) | {"delegate": delegate}
        error = agent.error(**job)
        assert error["kind"] == "job" and words in error["message"]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An external delegate that takes ABS."""
    return external_delegate.build(tmp_path_factory.mktemp("delegate"))

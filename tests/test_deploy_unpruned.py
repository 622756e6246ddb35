"""Deploying what is not pruned: a .tflite file as it came, and a Keras model by the method `none`."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from pipeline import engine, locate
from pipeline.artifacts import Store
from pipeline.errors import UserError
from pipeline.models import data, metrics
from pipeline.models.fitting import check_ports
from pipeline.progress import Progress
from pipeline.sparse_tflite.flatbuffer import read_model, write_model
from pipeline.sparse_tflite.float_model import read_float_model
from pipeline.sparse_tflite.keras_conversion import to_tflite
from pipeline.sparse_tflite.schema import schema
from tests.models_for_tests import write_dense_model
from tests.workspace import Workspace

NOT_PRUNED = ("--set", "prune.method=none")


@pytest.fixture(scope="module")
def kernels() -> list[np.ndarray]:
    """Of a network of 4, 40 and 3 units without biases, the wide layer with nine in ten weights zero."""
    random = np.random.default_rng(3)
    kernels = [random.normal(size=shape).astype(np.float32) for shape in ((4, 40), (40, 3))]
    kernels[0][random.random((4, 40)) < 0.9] = 0
    return kernels


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, home: Path, kernels: list[np.ndarray]) -> Workspace:
    import keras

    layers = [keras.layers.Dense(40, "relu", use_bias=False), keras.layers.Dense(3, use_bias=False)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.set_weights(kernels)
    workspace = Workspace(tmp_path_factory.mktemp("work"), home)
    (workspace.folder / "came.tflite").write_bytes(to_tflite(model))
    return workspace


def test_a_tflite_file_is_deployed_as_it_came(workspace: Workspace, kernels: list[np.ndarray]) -> None:
    ended = workspace.run("deploy", "plan.yaml", "--set", "model.source=came.tflite", *NOT_PRUNED)
    assert ended.code == 0, ended.err
    came = (workspace.folder / "came.tflite").read_bytes()
    found = workspace.result()
    variants, local = found["targets"]["local"]["encoded"]["variants"], found["targets"]["local"]
    assert variants["baseline"]["digest"] == variants["dense"]["digest"] == hashlib.sha256(came).hexdigest()
    assert variants["sparse"]["bytes"] < len(came)
    assert found["model"]["layers"] == [] and found["model"]["parameters_after"] == 4 * 40 + 40 * 3
    iris = data.load_bundled("iris", 0.3, 0)
    answers = np.maximum(iris.x_test @ kernels[0], 0) @ kernels[1]
    metric = metrics.accuracy(iris.y_test, answers)
    assert [found["model"][f"metric_{when}"] for when in ("before", "after")] == [metric, metric]
    assert {each["metric"] for each in local["measurements"].values()} == {metric}
    assert local["agreement"]["agrees"] and local["installed"]["digest"] in (
        variants["dense"]["digest"],
        variants["sparse"]["digest"],
    )
    assert "no layers" in (workspace.folder / "runs" / "latest" / "report.html").read_text()


def test_pruning_a_tflite_file_is_refused_on_the_plans_line(workspace: Workspace) -> None:
    plan = (workspace.folder / "plan.yaml").read_text()
    (workspace.folder / "came.yaml").write_text(plan.replace("model.py:build", "came.tflite"))
    ended = workspace.run("deploy", "came.yaml")
    assert ended.code == 2
    line = 1 + plan.splitlines().index("prune: {method: magnitude, sparsity: 0.5}")
    assert f"came.yaml:{line}: prune.method: a .tflite file has no layer graph" in ended.err


def test_a_keras_model_is_deployed_unpruned(workspace: Workspace) -> None:
    ended = workspace.run("deploy", "plan.yaml", *NOT_PRUNED, "--set", "train.epochs=1")
    assert ended.code == 0, ended.err
    found = workspace.result()
    variants = found["targets"]["local"]["encoded"]["variants"]
    assert variants["baseline"] == variants["dense"]
    assert [each["action"] for each in found["model"]["layers"]] == ["kept"] * 3
    assert found["model"]["metric_before"] == found["model"]["metric_after"]
    assert "than the baseline" not in found["targets"]["local"]["headline"]


def test_a_file_of_integers_throughout_is_taken_and_judged_in_real_numbers(
    workspace: Workspace, kernels: list[np.ndarray], tmp_path: Path
) -> None:
    import keras

    layers = [keras.layers.Dense(40, "relu", use_bias=False), keras.layers.Dense(3, use_bias=False)]
    model, iris = keras.Sequential([keras.Input((4,)), *layers]), data.load_bundled("iris", 0.3, 0)
    model.set_weights(kernels)
    (workspace.folder / "whole.tflite").write_bytes(to_tflite(model, "int8", iris.x_train, "uint8"))
    settings = ["model.source=whole.tflite", "prune.method=none"]
    plan, folder = locate.read_plan(str(workspace.folder / "plan.yaml"), settings)
    store = Store(tmp_path)
    run = engine.run_host_stages(plan, folder, store, Progress(quiet=True))
    engine.encode(plan, run, store, Progress(quiet=True), ("tflite-runtime", "x86"))
    report = run.encoded["tflite-runtime", "x86"]["report"].read_json()
    assert report["agreement"]["agrees"] and report["agreement"]["limit"] > 1e-3 and report["quantum"] > 0
    answers = np.maximum(iris.x_test @ kernels[0], 0) @ kernels[1]
    expected = metrics.accuracy(iris.y_test, answers)
    assert run.report("prune")["metric_after"] == pytest.approx(expected, abs=0.1)
    assert np.load(run.outputs["convert"]["inputs"].path).dtype == np.float32


def test_pruning_nothing_into_a_file_is_refused(workspace: Workspace) -> None:
    data.load_bundled("iris", 0.3, 0).save(workspace.folder / "data.npz")
    ended = workspace.run(
        *("prune", "model.py:build", "--method", "none", "--data", "data.npz", "--out", "p.keras")
    )
    assert ended.code == 2 and "expected a method that removes something" in ended.err


def test_a_file_that_takes_no_single_float_sample_is_told(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    write_dense_model(path)
    model = read_model(path.read_bytes(), "m")
    graph = model.subgraphs[0]
    graph.tensors[graph.inputs[0]].shape = [2, 4]
    path.write_bytes(write_model(model))
    with pytest.raises(UserError, match=r"m.tflite: expected inputs of batch 1, received .* \(2, 4\)"):
        read_float_model(path)
    graph.tensors[graph.inputs[0]].shape = [1, 4]
    graph.tensors[graph.inputs[0]].type = schema().TensorType.INT8
    path.write_bytes(write_model(model))
    with pytest.raises(
        UserError,
        match="expected inputs of the types float32, int32, int64, bool, or int8 or uint8 with a scale; received",
    ):
        read_float_model(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_float_model(tmp_path / "none.tflite")


def test_a_file_that_the_host_cannot_run_or_that_takes_other_samples_is_told(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    write_dense_model(path)
    with pytest.raises(UserError, match=r"the model takes samples of \(4,\), the data has \(5,\)"):
        zeros = np.zeros((1, 5))
        given = read_float_model(path)
        check_ports(given.inputs, given.outputs, data.Dataset(zeros, zeros, zeros, zeros))
    model = read_model(path.read_bytes(), "m")
    code = model.operatorCodes[0]
    code.deprecatedBuiltinCode, code.builtinCode, code.customCode = 32, 32, b"Unheard"
    path.write_bytes(write_model(model))
    with pytest.raises(UserError, match="on this machine cannot run"):
        read_float_model(path).predict(np.zeros((1, 4)))

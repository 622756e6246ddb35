"""A model of two inputs, tokens and numbers, and two outputs: each by its name from the data to the device and back."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from pipeline import engine, model_files
from pipeline.artifacts import Store
from pipeline.errors import UserError
from pipeline.measurement.agreement import compare_all
from pipeline.models import data, sources
from pipeline.models.graph import Graph
from pipeline.models.ports import answers, output_ports
from pipeline.models.samples import NamedArrays, as_type, at_key, by_name, in_order, keyed
from pipeline.models.sensitivity import sensitivity
from pipeline.plan import plan_model
from pipeline.progress import Progress
from pipeline.pruning.keras_network import KerasNetwork
from pipeline.sparse_tflite.signature import read_signature
from pipeline.strict_yaml import read_values
from tests.workspace import Workspace

MODEL = """
import keras
from keras import layers

def build():
    tokens = keras.Input((6,), dtype="int32", name="tokens")
    numbers = keras.Input((4,), name="numbers")
    words = layers.GlobalAveragePooling1D()(layers.Embedding(9, 8, name="words")(tokens))
    x = layers.Concatenate()([words, layers.Dense(16, activation="relu", name="of_numbers")(numbers)])
    x = layers.Dense(32, activation="relu", name="both")(x)
    kind = layers.Dense(3, activation="softmax", name="kind")(x)
    return keras.Model([tokens, numbers], [kind, layers.Dense(1, name="amount")(x)])

def score(targets, outputs):
    right = (outputs["kind"].argmax(axis=1) == targets["kind"]).mean()
    return float(right - abs(outputs["amount"][:, 0] - targets["amount"]).mean())
"""
VALUES: dict[str, Any] = {
    "name": "ports",
    "model": {"source": "ports.py:build"},
    "data": {"source": "ports.npz"},
    "metric": {"source": "accuracy", "output": "kind"},
    "train": {"epochs": 8, "learning_rate": 0.02, "loss": {"kind": "crossentropy", "amount": "mse"}},
    "prune": {"sparsity": 0.5, "refit": {"steps": 2, "samples": 200}},
    "measure": {
        "repetitions": 2,
        "warmup_runs": 1,
        "warmup_seconds": 0,
        "max_warmup_seconds": 0,
        "min_samples": 5,
        "min_seconds": 0,
        "max_samples": 10,
        "max_seconds": 0,
    },
    "gates": {"max_metric_drop": 0.5},
}


def arrays(count: int, seed: int) -> dict[str, np.ndarray]:
    """Inputs and targets by name: the kind is the token there is most of, the amount the numbers' sum."""
    random = np.random.default_rng(seed)
    tokens = random.integers(0, 9, (count, 6))
    numbers = random.normal(size=(count, 4))
    groups = (tokens[..., None] % 3 == np.arange(3)).sum(axis=1)
    return {
        "x/tokens": tokens,
        "x/numbers": numbers,
        "y/kind": groups.argmax(axis=1),
        "y/amount": numbers.sum(axis=1),
    }


def write(folder: Path, changes: Mapping[str, Any] | None = None) -> None:
    """ports.py and ports.npz; `changes` are other names of arrays, other arrays, or None for none."""
    (folder / "ports.py").write_text(MODEL)
    found = {
        f"{name[0]}_{part}{name[1:]}": array
        for part, count, seed in (("train", 400, 0), ("test", 64, 1))
        for name, array in arrays(count, seed).items()
    }
    for name, change in (changes or {}).items():
        array = found.pop(name)
        if change is not None:
            found |= {change: array} if isinstance(change, str) else {name: change}
    np.savez(folder / "ports.npz", **found)  # type: ignore[arg-type]


def prepared(folder: Path, *settings: str) -> Any:
    return read_values(copy.deepcopy(VALUES), plan_model(), overrides=settings, folder=folder, name="test")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def run(folder: Path, store: Store, *settings: str) -> engine.HostRun:
    write(folder)
    return engine.run_host_stages(
        prepared(folder, *settings), folder, store, Progress(quiet=True), last="prune"
    )


def test_every_port_is_known_by_its_name_from_the_data_to_the_device(tmp_path: Path, home: Path) -> None:
    workspace = Workspace(tmp_path, home)
    write(tmp_path)
    (tmp_path / "ports.yaml").write_text(json.dumps(VALUES))
    ended = workspace.run("deploy", "ports.yaml")
    assert ended.code == 0, ended.out + ended.err
    local = workspace.result()["targets"]["local"]
    assert local["agreement"]["agrees"] and local["agreement"]["output"] in ("kind", "amount")
    for measurement in local["measurements"].values():
        assert measurement["metric"] > 0.6
    assert workspace.result()["model"]["metric"] == "accuracy of kind"
    assert {"inputs/tokens", "inputs/numbers"} < set(local["digests"])
    current = tmp_path / "installed" / "local" / "current"
    manifest = json.loads((current / "manifest.json").read_text())
    assert [(port["name"], port["shape"], port["dtype"]) for port in manifest["inputs"]] == [
        ("tokens", [1, 6], "int32"),
        ("numbers", [1, 4], "float32"),
    ]
    assert [(port["name"], port["shape"]) for port in manifest["outputs"]] == [
        ("kind", [1, 3]),
        ("amount", [1, 1]),
    ]
    measured = workspace.run("measure", str(current / "model.tflite"), "--set", "repetitions=2", "--json")
    assert measured.code == 0, measured.err
    assert measured.json["summary"]["p50_ms"]["value"] > 0


def test_units_leave_and_training_with_distillation_goes_on_at_every_output(
    tmp_path: Path, store: Store
) -> None:
    units = {"method": "hessian_units", "hessian_units.multiple": 4, "hessian_units.calibration_samples": 64}
    tuning = {"refit.steps": 0, "fine_tune.epochs": 2, "fine_tune.distill": 0.5}
    chosen = [f"prune.{key}={value}" for key, value in (units | tuning).items()]
    report = run(tmp_path, store, *chosen).report("prune")
    counts = {each["layer"]: (each["units_before"], each["units_after"]) for each in report["decisions"]}
    assert counts["both"] == (32, 16) and counts["of_numbers"] == (16, 8)
    assert (counts["kind"], counts["amount"]) == ((3, 3), (1, 1))
    assert report["parameters_after"] < report["parameters_before"] / 2
    assert report["metric_after"] > 0.6


def test_a_function_of_the_users_judges_all_outputs(tmp_path: Path, store: Store) -> None:
    chosen = ("metric.source=ports.py:score", "metric.direction=higher", "metric.output=null")
    report = run(tmp_path, store, *chosen, "prune.refit.steps=0").report("prune")
    assert 0 < report["metric_after"] <= 1


def test_a_model_of_several_ports_is_converted_on_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    report = model_files.convert(
        Path("ports.py:build"), Path("out.tflite"), "local", model_files.Conversion(), Progress(quiet=True)
    )
    assert report["agreement"]["agrees"]
    signature = read_signature((tmp_path / "out.tflite").read_bytes(), "out.tflite")
    assert [port.name for port in signature.outputs] == ["kind", "amount"]


def test_representative_inputs_alone_make_integers_of_all_ports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    x = {f"x_train/{name[2:]}": array for name, array in arrays(64, 0).items() if name.startswith("x/")}
    np.savez("x.npz", **x)
    quiet, source = Progress(quiet=True), Path("ports.py:build")

    def wanted(file: str | None) -> model_files.Conversion:
        return model_files.Conversion("int8", "int8", data=Path(file) if file else None)

    report = model_files.convert(source, Path("out.tflite"), "local", wanted("x.npz"), quiet)
    assert report["agreement"]["agrees"] and report["quantum"] > 0
    signature = read_signature((tmp_path / "out.tflite").read_bytes(), "out.tflite")
    assert {port.name: port.dtype for port in (*signature.inputs, *signature.outputs)} == {
        **{"tokens": "int32", "numbers": "int8"},
        **{"kind": "int8", "amount": "int8"},
    }
    np.savez("other.npz", **{"x_train/tokens": x["x_train/tokens"], "x_train/numbers": np.ones((64, 5))})
    np.savez("none.npz", y_train=np.ones(64))
    np.savez("single.npz", x_train=np.ones((64, 4)))
    np.save("array.npy", np.ones((64, 4)))
    for file, words in (
        (None, "--precision int8: needs --data"),
        ("other.npz", r"--data other.npz: the model takes samples of \(4,\) at numbers, received \(5,\)"),
        ("none.npz", "none.npz: expected the array x_train, .* received: y_train"),
        ("single.npz", "--data single.npz: x_train: expected samples for each of tokens, numbers"),
        ("array.npy", "array.npy: not an .npz file"),
        ("nowhere.npz", "nowhere.npz: not an .npz file .*No such file"),
    ):
        with pytest.raises(UserError, match=words):
            model_files.convert(source, Path("none.tflite"), "local", wanted(file), quiet)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["metric.output=kin"], "metric.output: the model has no output 'kin'; did you mean 'kind'?"),
        (
            ["metric.output=null"],
            "metric.output: missing; say which of the outputs accuracy judges: kind, amo",
        ),
        (
            ["train.loss={kind: crossentropy}"],
            "train.loss: expected a loss for each output of the model, kind, amount; received one for kind",
        ),
        (["train.loss=crossentropy"], "the model tells 2 classes by amount"),
        (
            ["train.loss={kind: categorical_crossentropy, amount: mse}"],
            "categorical_crossentropy needs targets like the model's output kind (3,), received ()",
        ),
    ],
)
def test_outputs_that_the_plan_mistakes_are_told(
    tmp_path: Path, store: Store, settings: list[str], words: str
) -> None:
    with pytest.raises(UserError) as error:
        run(tmp_path, store, *settings)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["prune.refit_head.steps=1"], "prune.refit_head: expected a model of one output, received one of 2"),
        (
            ["train.when=never", "train.loss=nonsense", "prune.fine_tune.epochs=1"],
            "train.loss: Keras 3.* knows no loss 'nonsense'",
        ),
    ],
)
def test_what_recovery_cannot_do_is_told_before_anything_is_pruned(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, settings: list[str], words: str
) -> None:
    monkeypatch.delattr("pipeline.stages.prune.prune_model")
    with pytest.raises(UserError, match=words):
        run(tmp_path, store, *settings)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"x_train/tokens": "x_train/tokons"},
            "ports.npz: the model has the inputs tokens, numbers, expected the arrays x_train/tokens,"
            " x_train/numbers, x_test/tokens, x_test/numbers; received x_train/numbers, x_train/tokons,"
            " x_test/tokens, x_test/numbers",
        ),
        (
            {"y_test/kind": None},
            "expected the arrays y_train/kind, y_train/amount, y_test/kind, y_test/amount; rec",
        ),
        ({"y_train/kind": "y_train", "y_train/amount": None}, "received y_train, y_test/kind, y_test/amount"),
        (
            {"x_test/tokens": None, "x_test/numbers": None},
            "ports.npz: expected the arrays x_train, y_train, x_test, y_test, of a model of several inputs or outputs"
            " each as x_test/NAME; missing: x_test; received: x_train/tokens",
        ),
        (
            {"x_test/numbers": "x_test"},
            "expected either x_test or arrays by name, received x_test/tokens, x_test",
        ),
        (
            {"x_train/numbers": np.zeros((7, 4))},
            "x_train: expected as many samples for each name, received tokens",
        ),
        (
            {"x_train/numbers": np.zeros((400, 5)), "x_test/numbers": np.zeros((64, 5))},
            "at the input numbers, the d",
        ),
        (
            {"x_train/tokens": np.full((400, 6), 0.5)},
            "the model's input tokens takes int32, which 0.5 of the data's",
        ),
    ],
)
def test_data_of_other_ports_is_told_with_its_file(
    tmp_path: Path, store: Store, changes: dict[str, Any], words: str
) -> None:
    write(tmp_path, changes)
    with pytest.raises(UserError) as error:
        engine.run_host_stages(
            prepared(tmp_path, "train.when=never"), tmp_path, store, Progress(quiet=True), last="train"
        )
    assert words in str(error.value)


def test_a_function_may_return_dicts(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import numpy as np\n"
        "def load():\n"
        "    one = {'a': np.arange(4).reshape(4, 1), 'b': np.ones((4, 2))}, np.arange(4)\n"
        "    return one, one\n"
    )
    found = data.load_file(sources.parse("own.py:load", tmp_path, ()).artifact())
    assert isinstance(found.x_train, NamedArrays) and isinstance(found.y_train, np.ndarray)
    found.save(tmp_path / "saved")
    again = data.load(tmp_path / "saved")
    assert {name: array.dtype for name, array in by_name(again.x_test).items()} == {
        "a": "int64",
        "b": "float32",
    }


def test_samples_are_counted_sliced_and_taken_as_one_array_is() -> None:
    samples = NamedArrays({"a": np.arange(6), "b": np.arange(12).reshape(6, 2)})
    assert len(samples) == 6 and len(samples[2:4]) == 2
    taken = samples[np.array([5, 0])]
    assert taken.arrays["a"].tolist() == [5, 0] and taken.arrays["b"].tolist() == [[10, 11], [0, 1]]
    assert [array.shape for array in in_order(samples, ["b", "a"])] == [(6, 2), (6,)]
    kept = keyed("x", samples) | {"y": np.zeros(1)}
    assert list(kept) == ["x/a", "x/b", "y"] and at_key("none", kept) is None
    assert set(at_key("x", kept) or {}) == {"a", "b"} and at_key("y", kept) is kept["y"]
    with pytest.raises(ValueError, match="no arrays"):
        NamedArrays({})


@pytest.mark.parametrize(
    ("given", "dtype", "kept"),
    [
        (np.array([0, 255]), "uint8", True),
        (np.array([0, 256]), "uint8", False),
        (np.array([-1.0, 3.0]), "int32", True),
        (np.array([1e30]), "int32", False),
        (np.array([2**24 + 1]), "float32", False),
        (np.array([0.1]), "float32", True),
        (np.array([True]), "float32", True),
    ],
)
def test_no_whole_number_becomes_another(given: np.ndarray, dtype: str, kept: bool) -> None:
    if kept:
        np.testing.assert_allclose(as_type(given, dtype), given)
    else:
        with pytest.raises(ValueError, match=f"takes {dtype}, which"):
            as_type(given, dtype)


def test_whole_numbers_are_to_a_model_what_their_floats_are() -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, "relu", name="a"), keras.layers.Dense(2, name="b")]
    )
    whole = np.random.default_rng(0).integers(0, 256, (40, 4)).astype(np.uint8)
    floats = whole.astype(np.float32)
    np.testing.assert_array_equal(answers(model, whole), answers(model, floats))
    for one, other in zip(Graph(model).inputs("b", whole), Graph(model).inputs("b", floats), strict=True):
        np.testing.assert_array_equal(one, other)
    assert sensitivity(model, ["a"], whole)["a"].tolist() == sensitivity(model, ["a"], floats)["a"].tolist()
    networks = [KerasNetwork(model, ["a", "b"], x) for x in (whole, floats)]
    np.testing.assert_array_equal(networks[0].target, networks[1].target)
    slopes = [next(network.linearise(network.matrices())) for network in networks]
    for one, other in zip(slopes[0].inputs, slopes[1].inputs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_agreement_of_several_outputs_is_that_of_the_worst() -> None:
    twin = {"a": np.ones((3, 2)), "b": np.full((3, 1), 1e-3)}
    near = compare_all(twin, {"a": twin["a"] + 1e-5, "b": twin["b"]})
    assert near.agrees and near.output == "a"
    # Small beside the other output, and not beside its own.
    apart = compare_all(twin, {"a": twin["a"], "b": twin["b"] + 1e-6})
    assert not apart.agrees and apart.sentence.startswith("b: the sparse file differs")
    broken = compare_all(twin, {"a": twin["a"] * np.nan, "b": twin["b"] * 2})
    assert not broken.agrees and broken.output == "a"


def test_what_only_passes_an_output_on_does_not_hide_its_activation() -> None:
    entering = keras.Input((4,))
    answer = keras.layers.Dense(4, activation="softmax", name="answer")(entering)
    passed = keras.layers.Identity(name="passed")(keras.layers.Reshape((1, 4))(answer))
    turned = keras.layers.Reshape((4, 1), name="turned")(answer)
    ports = output_ports(keras.Model(entering, [answer, passed, turned]))
    assert [(port.name, port.activation) for port in ports] == [
        ("answer", "softmax"),
        ("passed", "softmax"),
        ("turned", "reshape"),
    ]

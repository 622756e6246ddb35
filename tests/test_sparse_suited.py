"""Files as they suit a runtime and a core: what is stored how, and that nothing in them would be wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import at_once, deployment, engine, locate, model_files, suits
from pipeline.artifacts import Store
from pipeline.errors import Disagreement, UserError
from pipeline.models.data import store_samples
from pipeline.progress import Progress
from pipeline.sparse_tflite import rewrites, runtimes, suited
from pipeline.sparse_tflite.decide import Decision
from pipeline.sparse_tflite.eligible import Rewritten, make_eligible
from pipeline.sparse_tflite.host_interpreter import outputs_on_host
from pipeline.sparse_tflite.lint import lint
from pipeline.sparse_tflite.suited import make_suited
from pipeline.stages import encode
from targets.errors import TargetError
from targets.probe import Probe
from tests.sparse_networks import block, depthwise, pointwise, stem, tensorflow_file
from tests.workspace import ROOT

LITERT = runtimes.load("ai-edge-litert")
TFLITE = runtimes.load("tflite-runtime")
WIDE = 48


def network(middle: Any = None, seed: int = 0) -> bytes:
    """A cluster from stem to mean, as wide as weights must be for sparse ones to be smaller, and a matrix behind it."""
    import keras

    keras.utils.set_random_seed(seed)
    image = keras.Input((16, 16, 3), batch_size=1)
    tensor = pointwise(depthwise(pointwise(stem(image), width=WIDE)), width=WIDE)
    tensor = pointwise(depthwise(middle(tensor) if middle else tensor), width=WIDE)
    tensor = keras.layers.GlobalAveragePooling2D()(tensor)
    model = keras.Model(image, keras.layers.Dense(64)(tensor))
    random = np.random.default_rng(0)
    for layer in model.layers:
        weights = layer.get_weights()
        if weights and weights[0].shape[-1] >= WIDE:
            kept = random.random(weights[0].shape) < 0.1
            layer.set_weights([np.where(kept, weights[0], 0), *weights[1:]])
    return tensorflow_file(model, sparse=False)


@pytest.fixture(scope="module")
def dense() -> bytes:
    return network()


def test_a_cluster_goes_behind_densify_where_that_runs_sparse(dense: bytes) -> None:
    content, decisions = make_suited(dense, LITERT, "arm")
    stored = {(each.operator, each.encoding) for each in decisions}
    assert ("CONV_2D", "csr_densify") in stored and ("FULLY_CONNECTED", "fc_unstructured") in stored
    found = lint(content, "suited", LITERT, "arm")
    assert not found.bad
    pruned = [each.outcome for each in found.graphs[0] if each.operator == "CONV_2D" and each.zeros > 0.5]
    assert pruned == ["runs sparse"] * 3
    samples = np.random.default_rng(1).normal(size=(2, 16, 16, 3)).astype(np.float32)
    np.testing.assert_allclose(outputs_on_host(content, samples), outputs_on_host(dense, samples), atol=1e-5)
    assert make_suited(dense, LITERT, "arm") == (content, decisions)


@pytest.mark.parametrize(("runtime", "core"), [(LITERT, "x86"), (TFLITE, "arm"), (TFLITE, "arm-fp16")])
def test_what_is_written_is_never_bad_nor_larger(dense: bytes, runtime: Any, core: Any) -> None:
    content, decisions = make_suited(dense, runtime, core)
    assert not lint(content, "suited", runtime, core).bad
    assert len(content) < len(dense) and all(each.reason for each in decisions)


def test_where_an_operator_would_be_wrong_convolutions_stay_dense() -> None:
    import keras

    content, decisions = make_suited(
        network(lambda tensor: keras.layers.MaxPooling2D(2)(tensor)), LITERT, "arm"
    )
    assert {each.encoding for each in decisions if each.operator == "CONV_2D"} == {"dense"}
    assert "fc_unstructured" in {each.encoding for each in decisions}
    assert any("answer wrongly" in each.reason for each in decisions)
    assert not lint(content, "suited", LITERT, "arm").bad


def test_a_choice_that_turns_out_wrong_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    dangerous = network(lambda tensor: keras.layers.MaxPooling2D(2)(block()(tensor)))
    densify = Decision("csr_densify", "runs sparse", "injected")
    keys = suited.choose(suited.read_graphs(dangerous, "m"), LITERT, "arm")
    monkeypatch.setattr(suited, "choose", lambda *_: dict.fromkeys(keys, densify))
    content, decisions = make_suited(dangerous, LITERT, "arm")
    assert content == dangerous
    assert "an operator of the model would answer wrongly" in {each.reason for each in decisions}.pop()


def test_convert_writes_for_its_target(dense: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.tflite").write_bytes(dense)
    report = model_files.convert(
        Path("m.tflite"), Path("out.tflite"), "rpi4", model_files.Conversion(), Progress()
    )
    assert "csr_densify" in {each["encoding"] for each in report["encodings"]}
    assert report["agreement"]["agrees"] and report["bytes"] < report["dense_bytes"]
    assert report["rewrites"] == {} and report["rewrites_reason"] == "none would make more weights run sparse"


def test_what_a_target_is_suited_by_is_in_its_file(home: Path) -> None:
    pi = locate.read_target("rpi4")
    assert suits.suit_of("rpi4", pi) == ("ai-edge-litert", "arm")
    assert suits.suit_of("rpi4", pi.model_copy(update={"runtime": "auto"})) is None
    assert suits.suit_of("rpi4", pi.model_copy(update={"core": None})) == ("ai-edge-litert", None)


@pytest.mark.parametrize(
    ("machine", "features", "core", "suit"),
    [
        ("aarch64", ("asimd",), None, ("ai-edge-litert", "arm")),
        ("aarch64", ("asimd", "asimdhp"), None, ("ai-edge-litert", "arm-fp16")),
        ("aarch64", ("asimd",), "arm", ("ai-edge-litert", "arm")),
        ("aarch64", None, "arm-fp16", ("ai-edge-litert", "arm-fp16")),
        ("arm64", None, None, ("ai-edge-litert", "arm-fp16")),
        ("riscv64", (), "arm", ("ai-edge-litert", "arm")),
        ("riscv64", (), None, ("ai-edge-litert", None)),
    ],
)
def test_what_the_file_leaves_open_the_device_says(
    machine: str, features: tuple[str, ...] | None, core: Any, suit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = probe_of(machine, features)
    target = locate.read_target("rpi4").model_copy(update={"core": core})
    monkeypatch.setattr(deployment, "runtime_of", lambda *_: "ai-edge-litert")
    assert deployment.suit_of("rpi4", target, device) == suit


def test_a_file_that_names_another_core_than_the_device_has_is_refused() -> None:
    target = locate.read_target("rpi4")
    with pytest.raises(
        UserError, match="rpi4: core: the target's file says arm, the device's processor is arm-fp16"
    ):
        deployment.suit_of("rpi4", target, probe_of("aarch64", ("asimd", "asimdhp")))


def probe_of(machine: str, features: tuple[str, ...] | None) -> Probe:
    return Probe(
        python=(3, 11, 2), implementation="cpython", machine=machine, bits=64, system="linux",
        libc=("glibc", "2.36"), features=None if features is None else " ".join(features), agent=None,
    )  # fmt: skip


def test_the_stage_sees_the_suit_and_the_rules_it_goes_by() -> None:
    options = encode.Options(
        precision="float32", agreement_samples=32, rewrites="auto", suit=("ai-edge-litert", "arm")
    )
    files = encode.loaded_by_name(options)
    assert all(path.is_file() for path in files) and len(files) == len(runtimes.names()) + len(
        rewrites.names()
    )
    assert len(encode.loaded_by_name(options.model_copy(update={"suit": None}))) == len(rewrites.names())


def strided(tensor: Any) -> Any:
    import keras

    return keras.layers.DepthwiseConv2D(3, strides=2, padding="same")(tensor)


def test_rewrites_are_applied_where_more_weights_run_sparse_for_them() -> None:
    made = network(strided)
    found = make_eligible(made, "auto", ("ai-edge-litert", "arm"))
    assert found.done == {"strided_depthwise": 1} and "weights then run sparse" in found.reason
    for suit, words in ((("ai-edge-litert", "x86"), "more weights"), (None, "not known")):
        left = make_eligible(made, "auto", suit)
        assert left.content == made and left.done == {} and words in left.reason
    assert make_eligible(made, "none", ("ai-edge-litert", "arm")).content == made
    assert make_eligible(made, ("strided_depthwise",), None).content == found.content


def test_twins_are_those_of_the_rewritten_graph() -> None:
    made = network(strided)
    samples = np.random.default_rng(1).normal(size=(32, 16, 16, 3)).astype(np.float32)
    twins = encode.make_twins(made, samples, suit=("ai-edge-litert", "arm"), wanted="auto")
    assert twins.dense != made and len(twins.sparse) < len(twins.dense)
    assert "runs sparse" in {each["reason"].split(":")[0] for each in twins.report["encodings"]}
    np.testing.assert_allclose(
        outputs_on_host(twins.dense, samples), outputs_on_host(made, samples), atol=1e-5
    )


def test_a_rewrite_that_changes_answers_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    made, other = network(strided), network(strided, seed=1)
    monkeypatch.setattr(encode, "make_eligible", lambda *_: Rewritten(other, {"stem": 1}, ""))
    samples = np.random.default_rng(1).normal(size=(32, 16, 16, 3)).astype(np.float32)
    with pytest.raises(
        Disagreement, match=r"with the rewrites stem the model answers otherwise.*convert\.rewrites"
    ):
        encode.make_twins(made, samples, wanted="auto")


def test_an_operator_the_runtime_has_not_is_found_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = runtimes.load("tflite-runtime")
    short = dataclasses.replace(rules, versions={**rules.versions, "CONV_2D": (0, 0)})
    monkeypatch.setattr(suited.runtimes, "load", lambda _: short)
    with pytest.raises(
        UserError, match=r"m: CONV_2D version \d is needed, .* has none; take a newer runtime"
    ):
        suited.refuse_missing(network(block()), "m", ("tflite-runtime", "arm"))


def test_a_target_whose_runtime_lacks_an_operator_is_sent_nothing(
    dense: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = dataclasses.replace(TFLITE, versions={**TFLITE.versions, "CONV_2D": (0, 0)})
    monkeypatch.setattr(runtimes, "load", lambda name: short if name == TFLITE.name else LITERT)
    suits = {"old": (TFLITE.name, None), "new": (LITERT.name, "arm"), "twin": (LITERT.name, "arm")}
    store, opened = Store(tmp_path / "store"), []
    made = engine.HostRun(engine.UserFiles(store.put("tflite", dense), None, None))
    samples = np.random.default_rng(1).normal(size=(32, 16, 16, 3)).astype(np.float32)
    files = dict.fromkeys(("baseline", "dense"), store.put("tflite", dense))
    figures = dict.fromkeys(
        ("metric_before", "metric_pruned", "metric_after", "parameters_before", "parameters_after"), 1
    )
    made.outputs = {
        "prune": {"report": store.put_json({"decisions": [], **figures})},
        "convert": {**files, **store_samples("inputs", samples, store)},
    }

    def open_device(name: str, target: Any) -> Any:
        opened.append(name)
        raise TargetError(f"{name}: unplugged")

    monkeypatch.setattr(engine, "run_host_stages", lambda *_: made)
    monkeypatch.setattr(at_once, "open_transport", open_device)
    plan, folder = locate.read_plan(str(ROOT / "pipeline.yaml"), [])

    def run(*names: str) -> Any:
        reached = {name: suits[name] for name in names}, {}
        monkeypatch.setattr(deployment, "check_reachable", lambda *_: reached)
        targets = dict.fromkeys(names, locate.read_target("rpi4"))
        return deployment.run(plan, folder, targets, store, tmp_path / "runs", Progress(quiet=True))

    found = run("old")
    assert found.exit_code == 2 and opened == []
    assert "CONV_2D version 1 is needed, tflite-runtime 2.14 has none" in found.targets["old"].error
    found = run("old", "new", "twin")
    assert sorted(opened) == ["new", "twin"] and found.targets["old"].exit_code == 2
    new, twin = (found.targets[name].encoded for name in ("new", "twin"))
    assert new == twin and new.title == "ai-edge-litert on arm"
    assert [record.stage for record in found.stages] == ["encode"]

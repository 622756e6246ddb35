"""Files as they suit a runtime and a core: what is stored how, and that nothing in them would be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import commands, locate
from pipeline.progress import Progress
from pipeline.sparse_tflite import runtimes, suited
from pipeline.sparse_tflite.decide import Decision
from pipeline.sparse_tflite.host_interpreter import outputs_on_host
from pipeline.sparse_tflite.lint import lint
from pipeline.sparse_tflite.suited import make_suited
from pipeline.stages import convert
from tests.sparse_networks import block, depthwise, pointwise, stem, tensorflow_file

LITERT = runtimes.load("ai-edge-litert")
TFLITE = runtimes.load("tflite-runtime")
WIDE = 48


def network(middle: Any = None) -> bytes:
    """A cluster from stem to mean, as wide as weights must be for sparse ones to be smaller, and a matrix behind it."""
    import keras

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
    report = commands.convert(Path("m.tflite"), Path("out.tflite"), "rpi4", Progress())
    assert "csr_densify" in {each["encoding"] for each in report["encodings"]}
    assert report["agreement"]["agrees"] and report["bytes"] < report["dense_bytes"]


def test_targets_that_differ_get_what_all_runtimes_read(home: Path) -> None:
    pi, here = locate.read_target("rpi4"), locate.read_target("local")
    assert commands._suit({"rpi4": pi}) == ("ai-edge-litert", "arm") == commands._suit({"a": pi, "b": pi})
    assert commands._suit({"rpi4": pi, "local": here}) is None
    unknown = pi.model_copy(update={"runtime": "auto"})
    assert commands._suit({"rpi4": unknown}) is None


def test_the_stage_sees_the_suit_and_the_rules_it_goes_by() -> None:
    options = convert.Options(
        precision="float32", representative_samples=0, agreement_samples=32, suit=("ai-edge-litert", "arm")
    )
    assert [path.is_file() for path in convert.loaded_by_name(options)] == [True] * len(runtimes.names())
    assert convert.loaded_by_name(options.model_copy(update={"suit": None})) == []

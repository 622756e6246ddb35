"""Models in float16 and int8: what the files hold, how near their answers are, and one deployed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.measurement.agreement import LIMITS, compare
from pipeline.sparse_tflite.flatbuffer import read_model, write_model
from pipeline.sparse_tflite.host_interpreter import outputs_on_host
from pipeline.sparse_tflite.keras_conversion import to_tflite
from pipeline.sparse_tflite.operators import read_graphs
from pipeline.sparse_tflite.precision import Io, Precision
from pipeline.sparse_tflite.quantum import dequantised, output_quantum, quantised
from pipeline.sparse_tflite.random_inputs import random_inputs
from pipeline.sparse_tflite.schema import schema
from pipeline.sparse_tflite.signature import read_signature
from tests.workspace import Workspace

X = np.random.default_rng(1).normal(size=(40, 6, 6, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def model() -> Any:
    import keras

    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(8, 3, activation="relu"), keras.layers.Flatten(), keras.layers.Dense(64)]
    return keras.Sequential([keras.Input((6, 6, 2)), *layers, keras.layers.Dense(5)])


@pytest.fixture(scope="module")
def float32(model: Any) -> bytes:
    return to_tflite(model)


@pytest.mark.parametrize(
    ("precision", "size", "error"),
    [("float16", 0.6, 2e-3), ("dynamic_range", 0.4, 0.03), ("int8", 0.45, 0.06)],
)
def test_each_precision_is_smaller_and_answers_nearly_the_same(
    model: Any, float32: bytes, precision: Precision, size: float, error: float
) -> None:
    content = to_tflite(model, precision, X if precision == "int8" else None)
    assert len(content) < size * len(float32)
    expected = outputs_on_host(float32, X)
    difference = np.abs(outputs_on_host(content, X) - expected).max() / np.abs(expected).max()
    assert 0 < difference < error
    graph = read_model(content, "converted").subgraphs[0]
    ends = {graph.tensors[index].type for index in (*graph.inputs, *graph.outputs)}
    assert ends == {schema().TensorType.FLOAT32}
    assert to_tflite(model, precision, X if precision == "int8" else None) == content


def test_matrices_in_dynamic_range_are_of_a_version_that_older_runtimes_have(model: Any) -> None:
    converted = read_model(to_tflite(model, "dynamic_range"), "converted")
    kind = schema().BuiltinOperator.FULLY_CONNECTED
    assert {code.version for code in converted.operatorCodes if code.builtinCode == kind} == {9}


@pytest.mark.parametrize("io", ["int8", "uint8"])
def test_a_model_of_integers_throughout_is_asked_and_answers_in_real_numbers(model: Any, io: Io) -> None:
    content, inside = to_tflite(model, "int8", X, io), to_tflite(model, "int8", X)
    signature = read_signature(content, "converted")
    ends = (*signature.inputs, *signature.outputs)
    assert {tensor.dtype for tensor in ends} == {io} and {tensor.taken for tensor in ends} == {"float32"}
    assert output_quantum(content, "converted") == output_quantum(inside, "converted")
    quantum = output_quantum(content, "converted")
    np.testing.assert_allclose(outputs_on_host(content, X), outputs_on_host(inside, X), atol=1.01 * quantum)
    whole = random_inputs(content, "converted")
    assert whole.dtype == io and outputs_on_host(content, whole).dtype == np.float32


@pytest.mark.parametrize(
    ("kind", "scale", "taken", "drawn"),
    [
        ("FLOAT32", [0.5], "float32", "float32"),
        ("INT8", [0.5], "float32", "int8"),
        ("INT8", [0.0], "int8", "int8"),
        ("INT8", [0.5, 0.5], "int8", "int8"),
        ("INT32", [0.5], "int32", "int32"),
    ],
)
def test_only_bytes_with_one_scale_stand_for_real_numbers(
    float32: bytes, kind: str, scale: list[float], taken: str, drawn: str
) -> None:
    changed = read_model(float32, "m")
    tensor = changed.subgraphs[0].tensors[changed.subgraphs[0].inputs[0]]
    tensor.type, tensor.quantization = getattr(schema().TensorType, kind), schema().QuantizationParametersT()
    tensor.quantization.scale, tensor.quantization.zeroPoint = scale, [0] * len(scale)
    content = write_model(changed)
    assert read_signature(content, "m").inputs[0].taken == taken
    assert random_inputs(content, "m").dtype == drawn


@given(st.floats(1e-4, 10), st.integers(-128, 127), st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=8))
def test_quantising_is_as_near_as_whole_numbers_allow(scale: float, zero: int, values: list[float]) -> None:
    real = np.array(values)
    whole = quantised(real, scale, zero, np.int8)
    within = (real / scale + zero > -128) & (real / scale + zero < 127)
    difference = np.abs(dequantised(whole, scale, zero) - real)
    assert (difference[within] <= 0.51 * scale + 1e-4).all()
    assert set(whole[real / scale + zero >= 127.5]) <= {127} and set(whole[real / scale + zero < -128.5]) <= {
        -128
    }


def test_answers_in_int8_are_multiples_of_the_quantum(model: Any, float32: bytes) -> None:
    content = to_tflite(model, "int8", X)
    quantum = output_quantum(content, "converted")
    steps = outputs_on_host(content, X) / quantum
    assert quantum > 0 and np.abs(steps - np.round(steps)).max() < 1e-3
    assert output_quantum(float32, "converted") == 0


def test_a_bias_of_zeros_is_there_in_int8_and_changes_no_answer() -> None:
    import keras

    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense(5, use_bias=False)
    model = keras.Sequential([keras.Input((6, 6, 2)), keras.layers.Flatten(), dense])
    content = to_tflite(model, "int8", X)
    (operator,) = (each for each in read_graphs(content, "c")[0].operators if each.kind == "FULLY_CONNECTED")
    bias = operator.inputs[2]
    assert bias is not None and (bias.dtype, bias.shape, bias.scales) == ("int32", (5,), 5)
    without = read_model(content, "converted")
    stripped = without.subgraphs[0].operators[operator.number]
    stripped.inputs = [*stripped.inputs[:2], -1]
    assert np.array_equal(outputs_on_host(content, X), outputs_on_host(write_model(without), X))


def test_int8_without_representative_inputs_is_refused(model: Any) -> None:
    with pytest.raises(Exception, match="int8 needs representative inputs"):
        to_tflite(model, "int8")


def test_a_precision_has_its_limit_of_agreement() -> None:
    twin = np.array([[8.0, -3.0]], np.float32)
    for precision, limit in LIMITS.items():
        assert compare(twin, twin + 0.9 * limit * 8, precision).agrees
        assert not compare(twin, twin + 1.1 * limit * 8, precision).agrees
    assert compare(twin, twin + 0.25, "int8", quantum=0.25).agrees
    assert not compare(twin, twin + 0.5, "int8", quantum=0.25).agrees
    assert compare(twin, twin + 0.25, "int8", quantum=0.25).limit == pytest.approx(0.25 / 8, rel=0.02)


def test_an_int8_model_is_deployed_beside_its_float_baseline(tmp_path: Path, home: Path) -> None:
    workspace = Workspace(tmp_path, home)
    ended = workspace.run(
        "deploy", "plan.yaml", "--set", "convert.precision=int8", "--set", "convert.io=uint8"
    )
    assert ended.code == 0, ended.err
    found = workspace.result()
    variants, local = found["targets"]["local"]["encoded"]["variants"], found["targets"]["local"]
    assert variants["baseline"]["digest"] != variants["dense"]["digest"] == variants["sparse"]["digest"]
    assert local["agreement"]["limit"] > 1e-3 and local["agreement"]["agrees"]
    assert local["measurements"]["dense"]["metric"] > 0.6
    manifest = json.loads((tmp_path / "installed/local/current/manifest.json").read_text())
    (taken,), (given,) = manifest["inputs"], manifest["outputs"]
    assert (taken["dtype"], given["dtype"]) == ("uint8", "uint8")
    assert given["scale"] == pytest.approx(1 / 256) and given["zero_point"] == 0 and taken["scale"] > 0

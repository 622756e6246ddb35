from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.sparse_tflite.encode import OVERHEAD
from pipeline.sparse_tflite.flatbuffer import ALIGNMENT, read_model, write_model
from pipeline.sparse_tflite.host_interpreter import outputs_on_host
from pipeline.sparse_tflite.keras_conversion import to_tflite
from pipeline.sparse_tflite.schema import schema
from pipeline.sparse_tflite.signature import read_signature
from pipeline.sparse_tflite.storing import make_sparse
from pipeline.sparse_tflite.weights import weights_of


@pytest.fixture(scope="module")
def pruned_model() -> object:
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(20, activation="relu"),
            keras.layers.Dense(3),
        ]
    )
    for layer, share in zip(model.layers, (0.9, 0, 0.9, 0, 0.9), strict=True):
        weights = layer.get_weights()
        if weights and share:
            weights[0] = np.where(np.abs(weights[0]) > np.quantile(np.abs(weights[0]), share), weights[0], 0)
            layer.set_weights([weights[0], np.linspace(-1, 1, len(weights[1]))])
    return model


@pytest.fixture(scope="module")
def dense(pruned_model: object) -> bytes:
    return to_tflite(pruned_model)


def test_conversion_is_deterministic(pruned_model: object, dense: bytes) -> None:
    assert to_tflite(pruned_model) == dense
    assert make_sparse(dense) == make_sparse(dense)


def test_pruned_matrices_become_sparse_and_answer_the_same(dense: bytes) -> None:
    sparse, decisions = make_sparse(dense)
    assert len(sparse) < len(dense)
    assert [(each.operator, each.encoding) for each in decisions] == [
        ("CONV_2D", "dense"),
        ("FULLY_CONNECTED", "fc_unstructured"),
        ("FULLY_CONNECTED", "dense"),
        ("FULLY_CONNECTED", "fc_unstructured"),
    ]
    assert "no sparse kernel" in decisions[0].reason
    assert "sparse storage would take" in decisions[2].reason
    inputs = np.random.default_rng(1).normal(size=(32, 6, 6, 1)).astype(np.float32)
    expected = outputs_on_host(dense, inputs)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(
        outputs_on_host(sparse, inputs), expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )


def test_sparse_operators_have_the_version_that_delegates_leave_alone(dense: bytes) -> None:
    sparse, _ = make_sparse(dense)
    model = read_model(sparse, "sparse")
    graph = model.subgraphs[0]
    kind = schema().BuiltinOperator.FULLY_CONNECTED
    versions = {
        (
            graph.tensors[operator.inputs[1]].sparsity is not None,
            model.operatorCodes[operator.opcodeIndex].version,
        )
        for operator in graph.operators
        if model.operatorCodes[operator.opcodeIndex].builtinCode == kind
    }
    assert versions == {(True, 8), (False, 1)}


def test_constants_are_aligned_in_what_we_write(dense: bytes) -> None:
    content, _ = make_sparse(dense)
    tables = schema()
    model = tables.Model.GetRootAs(content, 0)
    seen = 0
    for index in range(model.BuffersLength()):
        buffer = model.Buffers(index)
        if not buffer.DataIsNone():
            offset = buffer._tab.Vector(buffer._tab.Offset(4))
            assert offset % ALIGNMENT == 0
            seen += 1
    assert seen > 3


def test_a_model_without_zeros_comes_back_as_it_was(pruned_model: object) -> None:
    import keras

    inputs = keras.Input((8,))
    content = to_tflite(keras.Model(inputs, keras.layers.Dense(8)(inputs)))
    same, decisions = make_sparse(content)
    assert same == content
    assert [each.encoding for each in decisions] == ["dense"]


def test_a_matrix_of_nothing_but_zeros_still_loads_and_answers(pruned_model: object) -> None:
    import keras

    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(16, kernel_initializer="zeros", bias_initializer="ones")(inputs)
    dense = to_tflite(keras.Model(inputs, keras.layers.Dense(2)(hidden)))
    sparse, decisions = make_sparse(dense)
    assert [each.encoding for each in decisions] == ["fc_unstructured", "dense"]
    samples = np.random.default_rng(2).normal(size=(4, 8)).astype(np.float32)
    expected = outputs_on_host(dense, samples)
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(outputs_on_host(sparse, samples), expected, rtol=1e-6)


def test_weights_of_other_operators_and_types_are_accounted_for(pruned_model: object) -> None:
    import keras

    inputs = keras.Input((8, 8, 2))
    hidden = keras.layers.ZeroPadding2D(1)(inputs)
    hidden = keras.layers.DepthwiseConv2D(3, name="depthwise")(hidden)
    content = to_tflite(keras.Model(inputs, keras.layers.Flatten()(hidden)))
    _, decisions = make_sparse(content)
    assert [(each.operator, each.encoding) for each in decisions] == [("DEPTHWISE_CONV_2D", "dense")]


@pytest.mark.parametrize("share", [0, 0.2, 0.5, 0.7, 0.9, 0.95])
def test_no_share_of_zeros_makes_a_file_larger(dense: bytes, share: float) -> None:
    model = read_model(dense, "dense")
    random = np.random.default_rng(5)
    for key, _ in weights_of(model):
        buffer = model.buffers[model.subgraphs[0].tensors[key[1]].buffer]
        values = random.normal(size=buffer.data.nbytes // 4) * (
            random.random(buffer.data.nbytes // 4) > share
        )
        buffer.data = values.astype("<f4").view(np.uint8)
    content = write_model(model)
    sparse, decisions = make_sparse(content)
    stored = sum(each.stored_bytes - each.dense_bytes for each in decisions)
    assert len(sparse) <= len(content) and (stored < 0) == (sparse != content) == (share > 0.3)


def test_a_file_that_would_grow_is_left_as_it_is(dense: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding in OVERHEAD:
        monkeypatch.setitem(OVERHEAD, encoding, -10_000)
    model = read_model(dense, "dense")
    for key, _ in weights_of(model):
        buffer = model.buffers[model.subgraphs[0].tensors[key[1]].buffer]
        buffer.data = np.ones(buffer.data.nbytes // 4, "<f4").view(np.uint8)
    content = write_model(model)
    same, decisions = make_sparse(content)
    assert same == content
    told = {each.reason for each in decisions if each.operator == "FULLY_CONNECTED"}
    assert told and all(f"bytes, it takes {len(content):,}" in each for each in told)
    assert {each.encoding for each in decisions} == {"dense"}


def test_shared_weights_stay_dense(dense: bytes) -> None:
    model = read_model(dense, "dense")
    graph = model.subgraphs[0]
    matrices = [operator.inputs[1] for operator in graph.operators if len(operator.inputs) == 3]
    twin = graph.tensors[matrices[1]]
    twin.buffer, twin.shape = graph.tensors[matrices[2]].buffer, graph.tensors[matrices[2]].shape
    _, decisions = make_sparse(write_model(model))
    assert [each.reason for each in decisions].count(
        "its data is shared with another tensor; its zeros are stored densely"
    ) == 2


@pytest.mark.parametrize(
    "content", [b"", b"short", b"0000TFL9" + bytes(100), b"\x08\0\0\0TFL3" + b"\xff" * 64]
)
def test_what_is_no_tflite_file_is_refused(content: bytes) -> None:
    with pytest.raises(UserError, match=r"x\.tflite"):
        make_sparse(content, "x.tflite")


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_file_is_refused_or_read_never_worse(dense: bytes, seed: int) -> None:
    random = np.random.default_rng(seed)
    for _ in range(20):
        content = bytearray(dense)
        for place in random.integers(8, len(content), random.integers(1, 9)):
            content[place] = random.integers(256)
        cut = int(random.choice([len(content), random.integers(8, len(content))]))
        try:
            make_sparse(bytes(content[:cut]), "damaged")
        except UserError as error:
            assert "damaged" in str(error)


def test_signature(dense: bytes) -> None:
    signature = read_signature(dense, "dense")
    assert [(each.shape, each.dtype) for each in signature.inputs] == [((1, 6, 6, 1), "float32")]
    assert [(each.shape, each.dtype) for each in signature.outputs] == [((1, 3), "float32")]

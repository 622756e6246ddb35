from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.errors import UserError
from pipeline.sparse_tflite import encoding
from pipeline.sparse_tflite.flatbuffer import ALIGNMENT, read_model, write_model
from pipeline.sparse_tflite.fully_connected import make_sparse
from pipeline.sparse_tflite.keras_conversion import outputs_on_host, to_tflite
from pipeline.sparse_tflite.schema import schema
from pipeline.sparse_tflite.signature import one_float_input, read_signature

matrices = st.tuples(st.integers(1, 9), st.integers(1, 12)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.sampled_from([0.0, 0.0, 0.0, 1.5, -2.0]))
)


@given(matrices)
def test_every_layout_gives_back_the_matrix(matrix: np.ndarray) -> None:
    for block in (1, 4):
        if matrix.shape[1] % block == 0:
            assert np.array_equal(encoding.decode(encoding.encode(matrix, block), matrix.shape[1]), matrix)


def test_layout_of_a_small_matrix() -> None:
    matrix = np.array([[0, 5, 0, 0], [0, 0, 0, 0], [1, 0, 0, 2]], np.float32)
    plain = encoding.encode(matrix, 1)
    assert plain.values.tolist() == [5, 1, 2]
    assert plain.segments.tolist() == [0, 1, 1, 3]
    assert plain.indices.tolist() == [1, 0, 3]
    blocks = encoding.encode(matrix, 4)
    assert blocks.values.tolist() == [0, 5, 0, 0, 1, 0, 0, 2]
    assert blocks.segments.tolist() == [0, 1, 1, 2]
    assert blocks.indices.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("columns", "kind"), [(256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "int32")]
)
def test_indices_take_the_smallest_type_that_holds_them(columns: int, kind: str) -> None:
    matrix = np.zeros((1, columns), np.float32)
    matrix[0, -1] = 1
    assert encoding.encode(matrix, 1).indices.dtype == kind


def test_whole_blocks_are_stored_as_blocks_and_single_weights_are_not() -> None:
    matrix = np.zeros((16, 64), np.float32)
    matrix[:, 8:12] = 1
    assert encoding.smallest(matrix).name == "1x4"
    matrix[:] = 0
    matrix[:, ::8] = 1
    assert encoding.smallest(matrix).name == "unstructured"


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
        ("FULLY_CONNECTED", "unstructured"),
        ("FULLY_CONNECTED", "dense"),
        ("FULLY_CONNECTED", "unstructured"),
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
    hidden = keras.layers.Dense(8, kernel_initializer="zeros", bias_initializer="ones")(inputs)
    dense = to_tflite(keras.Model(inputs, keras.layers.Dense(2)(hidden)))
    sparse, decisions = make_sparse(dense)
    assert [each.encoding for each in decisions] == ["unstructured", "dense"]
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


def test_shared_weights_stay_dense(dense: bytes) -> None:
    model = read_model(dense, "dense")
    graph = model.subgraphs[0]
    matrices = [operator.inputs[1] for operator in graph.operators if len(operator.inputs) == 3]
    twin = graph.tensors[matrices[1]]
    twin.buffer, twin.shape = graph.tensors[matrices[2]].buffer, graph.tensors[matrices[2]].shape
    _, decisions = make_sparse(write_model(model))
    assert [each.reason for each in decisions].count("the weights are shared with another operator") == 2


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
    assert one_float_input(signature, "dense").shape == (1, 6, 6, 1)

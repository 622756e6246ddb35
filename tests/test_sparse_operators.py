from __future__ import annotations

import numpy as np
import pytest

from pipeline.sparse_tflite import stored_weights
from pipeline.sparse_tflite.encode import encode
from pipeline.sparse_tflite.flatbuffer import read_model, write_model
from pipeline.sparse_tflite.operators import read_graphs, view
from tests.sparse_networks import dense_file, network, sparse_file, tensorflow_file
from tests.tflite_files import matrix_file


def test_operators_have_names_versions_and_weights() -> None:
    (graph,) = read_graphs(sparse_file("base"), "base")
    assert [each.kind for each in graph.computing] == [
        "PAD",
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "CONV_2D",
        "MEAN",
        "FULLY_CONNECTED",
    ]
    assert {each.version for each in graph.operators} == {1}
    pruned = graph.computing[3]
    assert pruned.weights is not None
    assert (pruned.weights.encoding, pruned.weights.shape, pruned.precision) == (
        "csr_densify",
        (8, 1, 1, 8),
        "float32",
    )
    assert pruned.weights.nonzeros == 7
    assert [each.kind for each in graph.operators if graph.unpacks(each)] == ["DENSIFY", "DENSIFY"]


def test_weights_are_the_same_however_they_are_stored() -> None:
    half = tensorflow_file(network("base"), sparse=True, float16=True)
    graphs = [read_graphs(content, "base")[0] for content in (dense_file("base"), sparse_file("base"), half)]
    single, sparse, halves = ([each for each in graph.computing if each.weights] for graph in graphs)
    assert {each.precision for each in sparse} == {"float32"}
    assert {each.precision for each in halves} == {"float16"}
    for first, second, third in zip(single, sparse, halves, strict=True):
        assert first.weights and second.weights and third.weights
        assert first.weights.zeros == second.weights.zeros == third.weights.zeros
        np.testing.assert_array_equal(first.weights.values, second.weights.values)
        np.testing.assert_array_equal(first.weights.values.astype(np.float16), third.weights.values)


@pytest.mark.parametrize("encoding", ["fc_unstructured", "fc_1x4", "csr_densify"])
def test_sparse_weights_are_read_back(encoding: str) -> None:
    matrix = np.zeros((6, 12), np.float32)
    matrix[1, 4:8], matrix[5, ::4] = 1, 2
    model = read_model(matrix_file(matrix, at="dense"), "matrix")
    encode(model, {(0, 1): encoding})
    (operator,) = view(model, model.subgraphs[0]).computing
    assert operator.weights is not None
    assert operator.weights.encoding == encoding
    np.testing.assert_array_equal(operator.weights.values, matrix)


def test_who_reads_whose_output() -> None:
    (graph,) = read_graphs(sparse_file("residual"), "residual")
    (add,) = (each for each in graph.computing if each.kind == "ADD")
    for tensor in add.inputs:
        assert tensor is not None
        assert add in graph.readers[tensor.number]
    assert graph.producers[add.outputs[0].number] is add
    assert {graph.tensors[at].shape for at in graph.inputs} == {(1, 16, 16, 3)}
    assert all(graph.tensors[at].fixed for at in graph.inputs)


def test_an_open_batch_is_told() -> None:
    (graph,) = read_graphs(sparse_file("base", None), "open")
    assert not any(graph.tensors[at].fixed for at in graph.inputs)


def test_layers_have_the_names_that_keras_gave_them() -> None:
    (graph,) = read_graphs(sparse_file("max pool"), "pool")
    (pool,) = (each for each in graph.computing if each.kind == "MAX_POOL_2D")
    assert pool.layer.startswith("max_pooling2d")
    assert pool.title == f"MAX_POOL_2D {pool.layer}"


@pytest.mark.parametrize("width", [1, 4])
def test_blocks_that_hold_a_value(width: int) -> None:
    (graph,) = read_graphs(sparse_file("base"), "base")
    weights = graph.computing[3].weights
    assert weights is not None
    assert weights.values is not None
    used = weights.nonzero_blocks(width)
    assert used is not None
    rows = weights.values.reshape(8, 8 // width, width)
    assert used.tolist() == [[bool(block.any()) for block in row] for row in rows]
    assert weights.nonzero_blocks(3) is None


@pytest.mark.parametrize(("shape", "order"), [((0, 1 << 30), (0, 1)), ((1 << 20, 2), (0, 0))])
def test_sizes_that_the_shape_does_not_account_for_are_not_expanded(
    shape: tuple[int, int], order: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(_: object) -> None:
        raise AssertionError("these are many gigabytes")

    monkeypatch.setattr(stored_weights, "decode", forbidden)
    model = read_model(matrix_file(np.ones((4, 4), np.float32)), "bomb")
    tensor = model.subgraphs[0].tensors[1]
    tensor.shape, tensor.sparsity.traversalOrder = shape, order
    (graph,) = read_graphs(write_model(model), "bomb")
    assert graph.operators[-1].weights is not None

"""Files written in chosen encodings: what they hold, and what TensorFlow's interpreter answers by them."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from benchmarks._sparse_files import convert, samples
from pipeline.sparse_tflite.encode import DIRECT_VERSION, ENCODINGS, OVERHEAD, encode, why_not
from pipeline.sparse_tflite.encoding import Layout, Level, SparseTensor, decode
from pipeline.sparse_tflite.flatbuffer import read_model, write_model
from pipeline.sparse_tflite.host_interpreter import outputs_on_host
from pipeline.sparse_tflite.schema import schema
from pipeline.sparse_tflite.weights import operator_name, values_of, weights_of

PRECISIONS = ("float32", "float16", "int8")
KERNELS = ["CONV_2D", "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "FULLY_CONNECTED"]


@functools.cache
def dense_file(precision: str, block: int) -> bytes:
    return convert(precision, block=block)


@functools.cache
def answers(precision: str, block: int = 4) -> np.ndarray:
    return outputs_on_host(dense_file(precision, block), samples(3))


def possible(model: Any, encoding: str) -> dict[Any, str]:
    return {
        key: encoding for key, readers in weights_of(model) if why_not(model, key, readers, encoding) is None
    }


def stored_as(precision: str, encoding: str, block: int = 4) -> tuple[Any, bytes]:
    model = read_model(dense_file(precision, block), "dense")
    assert encode(model, possible(model, encoding))
    content = write_model(model)
    return read_model(content, "sparse"), content


def dense_values(model: Any, tensor: Any) -> np.ndarray | None:
    """The values of a constant in its shape, however it is stored; None where it is none."""
    if tensor.sparsity is None:
        return values_of(model, tensor)
    entries = tensor.sparsity.dimMetadata
    rank = len(tensor.shape)
    levels = tuple(
        Level(np.asarray(entry.arraySegments.values), np.asarray(entry.arrayIndices.values))
        if entry.format
        else None
        for entry in entries[:rank]
    )
    block = (int(tensor.sparsity.blockMap[0]), int(entries[rank].denseSize)) if len(entries) > rank else None
    order = tuple(int(at) for at in tensor.sparsity.traversalOrder[:rank])
    layout = Layout(order, tuple(level is not None for level in levels), block)
    types = {0: "<f4", 1: "<f2", 9: "i1"}
    values = np.asarray(model.buffers[tensor.buffer].data, np.uint8).view(types[tensor.type])
    return decode(SparseTensor(tuple(int(size) for size in tensor.shape), layout, values, levels))


def constants(model: Any) -> list[bytes]:
    """The values of every kernel, in the order of their sizes: TensorFlow numbers tensors anew."""
    found = [
        dense_values(model, tensor)
        for tensor in model.subgraphs[0].tensors
        if model.buffers[tensor.buffer].data is not None
    ]
    return sorted(each.tobytes() for each in found if each is not None and each.ndim > 1)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_all_kernels_behind_densify_answer_as_dense_and_are_smaller_than_tensorflows(precision: str) -> None:
    model, content = stored_as(precision, "csr_densify")
    kinds = [operator_name(model, each) for each in model.subgraphs[0].operators]
    assert kinds.count("DENSIFY") == len(KERNELS)
    assert np.array_equal(outputs_on_host(content, samples(3)), answers(precision))
    theirs = convert(precision, sparse=True)
    assert len(content) < len(theirs)
    dense = constants(read_model(dense_file(precision, 4), "dense"))
    assert constants(model) == dense == constants(read_model(theirs, "theirs"))


@pytest.mark.parametrize(
    ("precision", "encoding", "block"),
    [("float32", "fc_unstructured", 4), ("float32", "fc_1x4", 4), ("int8", "fc_1x16", 16)],
)
def test_matrices_read_by_sparse_kernels_answer_as_dense(precision: str, encoding: str, block: int) -> None:
    model, content = stored_as(precision, encoding, block)
    graph = model.subgraphs[0]
    read_sparsely = [
        each for each in graph.operators if any(graph.tensors[at].sparsity for at in each.inputs)
    ]
    assert [operator_name(model, each) for each in read_sparsely] == ["FULLY_CONNECTED"] * 2
    assert {model.operatorCodes[each.opcodeIndex].version for each in read_sparsely} == {DIRECT_VERSION}
    expected = answers(precision, block)
    # One quantum of the int8 output, of which there are 256 over its range.
    limit = np.ptp(expected) / 100 if precision == "int8" else 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(outputs_on_host(content, samples(3)), expected, rtol=0, atol=limit)
    assert constants(model) == constants(read_model(dense_file(precision, block), "dense"))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("encoding", ENCODINGS[1:])
def test_a_file_grows_by_no_more_than_the_overhead_beside_the_values(precision: str, encoding: str) -> None:
    content = dense_file(precision, 4)
    model = read_model(content, "dense")
    for key in possible(model, encoding):
        model = read_model(content, "dense")
        before = len(write_model(read_model(content, "dense")))
        tensor = model.subgraphs[0].tensors[key[1]]
        dense = len(model.buffers[tensor.buffer].data)
        stored = encode(model, {key: encoding})[key].nbytes
        assert len(write_model(model)) - before <= stored - dense + OVERHEAD[encoding]


def test_what_was_not_chosen_is_not_touched() -> None:
    model = read_model(dense_file("float32", 4), "dense")
    same = write_model(read_model(dense_file("float32", 4), "dense"))
    assert encode(model, {}) == {} == encode(model, {key: "dense" for key, _ in weights_of(model)})
    assert write_model(model) == same


def test_writing_is_deterministic() -> None:
    content = stored_as("float32", "csr_densify")[1]
    model = read_model(dense_file("float32", 4), "dense")
    encode(model, dict(reversed(possible(model, "csr_densify").items())))
    assert write_model(model) == content


def kernel(model: Any, kind: str) -> Any:
    return next(key for key, readers in weights_of(model) if readers[0].kind == kind)


@pytest.mark.parametrize(
    ("precision", "kind", "encoding", "words"),
    [
        ("float32", "CONV_2D", "fc_1x4", "CONV_2D has no sparse kernel"),
        ("float32", "FULLY_CONNECTED", "fc_1x16", "expected int8 weights, received float32"),
        ("int8", "FULLY_CONNECTED", "fc_1x4", "expected float32 weights, received int8"),
        ("float16", "DEQUANTIZE", "fc_1x4", "DEQUANTIZE has no sparse kernel"),
        ("float32", "FULLY_CONNECTED", "csr", "unknown encoding; known: dense, csr_densify, fc_unstructured"),
    ],
)
def test_an_encoding_without_a_kernel_is_refused(
    precision: str, kind: str, encoding: str, words: str
) -> None:
    model = read_model(dense_file(precision, 4), "dense")
    with pytest.raises(ValueError, match=words):
        encode(model, {kernel(model, kind): encoding})


def refused(change: Any, encoding: str = "csr_densify") -> str:
    """The reason once `change` was made to the model and its last matrix."""
    model = read_model(dense_file("float32", 4), "dense")
    graph = model.subgraphs[0]
    key, readers = [found for found in weights_of(model) if found[1][0].kind == "FULLY_CONNECTED"][-1]
    change(model, graph, graph.tensors[key[1]], readers[0].operator, key[1])
    reason = why_not(model, key, dict(weights_of(model)).get(key, []), encoding)
    with pytest.raises(ValueError, match="cannot be stored as"):
        encode(model, {key: encoding})
    return str(reason)


def test_what_the_format_cannot_hold_is_refused_with_the_reason() -> None:
    sparse = schema().SparsityParametersT()
    assert "sparsely already" in refused(lambda m, g, t, o, n: setattr(t, "sparsity", sparse))
    assert "no constant of float32" in refused(lambda m, g, t, o, n: setattr(t, "type", 2))
    assert "shared with another tensor" in refused(
        lambda m, g, t, o, n: setattr(g.tensors[0], "buffer", t.buffer)
    )
    assert "an output" in refused(lambda m, g, t, o, n: setattr(g, "outputs", [n]))
    assert "not a plain matrix" in refused(
        lambda m, g, t, o, n: setattr(t, "shape", [10, 8, 8]), "fc_unstructured"
    )
    assert "multiples of 4, received 10" in refused(
        lambda m, g, t, o, n: setattr(t, "shape", [64, 10]), "fc_1x4"
    )
    assert "may come out of a DENSIFY" in refused(lambda m, g, t, o, n: setattr(o, "inputs", [n, 0, -1]))
    assert "no weight of the operator" in refused(
        lambda m, g, t, o, n: setattr(o, "inputs", [n, 0, -1]), "fc_1x4"
    )
    assert "another operator" in refused(
        lambda m, g, t, o, n: setattr(g.operators[0], "inputs", [*g.operators[0].inputs, n]), "fc_1x4"
    )


def test_weights_of_another_graph_stay_as_they_are() -> None:
    model = read_model(dense_file("float32", 4), "dense")
    model.subgraphs.insert(0, schema().SubGraphT())
    model.subgraphs[0].tensors = model.subgraphs[0].operators = model.subgraphs[0].outputs = []
    assert {why_not(model, key, readers, "csr_densify") for key, readers in weights_of(model)} == {
        "it belongs to a graph that is not the main one (control flow, or another signature)"
    }


def test_shared_kernels_come_out_of_one_densify() -> None:
    model = read_model(dense_file("float32", 4), "dense")
    graph = model.subgraphs[0]
    key = kernel(model, "FULLY_CONNECTED")
    reader = dict(weights_of(model))[key][0].operator
    graph.operators.append(reader)
    encode(model, {key: "csr_densify"})
    kinds = [operator_name(model, each) for each in graph.operators]
    assert kinds.count("DENSIFY") == 1 and kinds.index("DENSIFY") == kinds.index("FULLY_CONNECTED") - 1

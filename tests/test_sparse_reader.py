"""Files that nobody vouches for: read, or refused with the reason, at a bounded cost."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import flatbuffers
import numpy as np
import pytest

from benchmarks._mutations import healthy_files, mutant, reading
from pipeline.errors import UserError
from pipeline.models.samples import by_name
from pipeline.sparse_tflite import runtimes
from pipeline.sparse_tflite.encode import why_not
from pipeline.sparse_tflite.flatbuffer import read_model, write_model
from pipeline.sparse_tflite.host_interpreter import answers_on_host
from pipeline.sparse_tflite.lint import lint
from pipeline.sparse_tflite.random_inputs import random_inputs
from pipeline.sparse_tflite.rewrites import rewrite
from pipeline.sparse_tflite.schema import schema
from pipeline.sparse_tflite.storing import make_sparse
from pipeline.sparse_tflite.suited import make_suited
from pipeline.sparse_tflite.weights import weights_of

MUTANTS = 200
LITERT = runtimes.load("ai-edge-litert")


def test_mutated_files_are_read_or_refused() -> None:
    ended = [reading(mutant(seed)) for seed in range(MUTANTS)]
    assert min(ended.count("read"), ended.count("refused")) > MUTANTS / 10


def test_a_file_cut_anywhere_is_refused() -> None:
    (content, *_) = healthy_files()
    for end in range(0, len(content) - 1, 97):
        with pytest.raises(UserError, match="cut: "):
            read_model(content[:end], "cut")


def offsets(builder: Any, one: int, count: int) -> int:
    """A vector of so many offsets, all to one place."""
    builder.StartVector(4, count, 4)
    for _ in range(count):
        builder.PrependUOffsetTRelative(one)
    return int(builder.EndVector())


def tensors_in_tensors(builder: Any) -> None:
    tables = schema()
    tables.TensorStart(builder)
    tensors = offsets(builder, tables.TensorEnd(builder), 3000)
    tables.SubGraphStart(builder)
    tables.SubGraphAddTensors(builder, tensors)
    graphs = offsets(builder, tables.SubGraphEnd(builder), 3000)
    tables.ModelStart(builder)
    tables.ModelAddSubgraphs(builder, graphs)


def one_name_for_all(builder: Any) -> None:
    tables = schema()
    name = builder.CreateString("n" * 1_000_000)
    tables.TensorStart(builder)
    tables.TensorAddName(builder, name)
    tensors = offsets(builder, tables.TensorEnd(builder), 3000)
    tables.SubGraphStart(builder)
    tables.SubGraphAddTensors(builder, tensors)
    graphs = offsets(builder, tables.SubGraphEnd(builder), 1)
    tables.ModelStart(builder)
    tables.ModelAddSubgraphs(builder, graphs)


def one_constant_for_all(builder: Any) -> None:
    tables = schema()
    data = builder.CreateNumpyVector(np.zeros(1_000_000, np.uint8))
    tables.BufferStart(builder)
    tables.BufferAddData(builder, data)
    buffers = offsets(builder, tables.BufferEnd(builder), 3000)
    tables.ModelStart(builder)
    tables.ModelAddBuffers(builder, buffers)


@pytest.mark.parametrize(
    ("fill", "words"),
    [
        (tensors_in_tensors, "unfolds into more tables than have room"),
        (one_name_for_all, "unfolds into more than 4 times its size"),
        (one_constant_for_all, "unfolds into more than 4 times its size"),
    ],
)
def test_what_unfolds_is_refused_before_it_does(fill: Callable[[Any], None], words: str) -> None:
    builder = flatbuffers.Builder(0)
    fill(builder)
    builder.Finish(schema().ModelEnd(builder), file_identifier=b"TFL3")
    content = bytes(builder.Output())
    tracemalloc.start()
    with pytest.raises(UserError, match=words):
        read_model(content, "bomb")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * len(content) + 16 * 2**20


def changed(change: Callable[[Any, Any, Any], None]) -> bytes:
    """The dense file with a change to the model, its graph, and the first matrix that it multiplies with."""
    model = read_model(healthy_files()[0], "dense")
    graph = model.subgraphs[0]
    key = next(key for key, readers in weights_of(model) if readers[0].kind == "FULLY_CONNECTED")
    change(model, graph, graph.tensors[key[1]])
    return write_model(model)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m, g, t: setattr(t, "shape", [2**31 - 1] * 2), "cannot reshape"),
        (lambda m, g, t: setattr(t, "shape", [-1, 36]), r"graph 0: a tensor of shape \[-1, 36\]"),
        (lambda m, g, t: setattr(t, "buffer", 1000), "graph 0: a tensor's buffer is 1000, and there are"),
        (lambda m, g, t: setattr(g, "inputs", [-1]), "an input or output is -1, and there are"),
        (lambda m, g, t: setattr(g.operators[0], "inputs", [-2]), "an operator's input is -2, and there are"),
        (
            lambda m, g, t: setattr(g.operators[0], "outputs", [-1]),
            "an operator's output is -1, and there are",
        ),
        (
            lambda m, g, t: setattr(g.operators[0], "opcodeIndex", 99),
            "an operator's code is 99, and there are",
        ),
        (lambda m, g, t: setattr(m.metadata[0], "buffer", 99), "the buffer of a metadata entry is 99"),
        (lambda m, g, t: setattr(t, "name", b"\xff"), "UnicodeDecodeError"),
    ],
)
def test_what_leads_nowhere_or_contradicts_itself_is_refused(change: Any, words: str) -> None:
    with pytest.raises(UserError, match=f"x.tflite: a damaged TFLite file: .*{words}"):
        make_sparse(changed(change), "x.tflite")


def test_absent_vectors_are_empty() -> None:
    content = write_model(schema().ModelT(subgraphs=[schema().SubGraphT()], buffers=[]))
    assert make_sparse(content) == (content, [])
    assert [len(graph.operators) for graph in read_model(content, "empty").subgraphs] == [0]


def test_inputs_that_no_memory_holds_are_refused() -> None:
    model = read_model(healthy_files()[0], "healthy")
    graph = model.subgraphs[0]
    graph.tensors[graph.inputs[0]].shape = [1, 2**31 - 1]
    with pytest.raises(UserError, match=r"x.tflite: takes 2,147,483,647 values a sample"):
        random_inputs(write_model(model), "x.tflite")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda graph: setattr(graph, "inputs", []), "has no inputs"),
        (lambda graph: setattr(graph, "outputs", []), "has no outputs"),
        (
            lambda graph: setattr(graph.tensors[graph.inputs[0]], "type", schema().TensorType.STRING),
            "received string",
        ),
        (
            lambda graph: setattr(graph.tensors[graph.inputs[0]], "type", schema().TensorType.INT4),
            "received int4",
        ),
    ],
)
def test_what_no_random_numbers_are_made_for_is_refused(change: Any, words: str) -> None:
    with pytest.raises(UserError, match=f"x.tflite: .*{words}"):
        random_inputs(changed(lambda model, graph, matrix: change(graph)), "x.tflite")


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model, "externalBufferGroups", [schema().ExternalBufferGroupT()]),
        lambda model: setattr(model.subgraphs[0].operators[0], "largeCustomOptionsOffset", 4096),
    ],
)
def test_what_lies_outside_of_the_flatbuffer_is_not_lost(change: Any) -> None:
    with pytest.raises(UserError, match=r"x.tflite: keeps constants outside the flatbuffer"):
        read_model(changed(lambda model, graph, matrix: change(model)), "x.tflite")


def test_metadata_of_the_old_form_is_kept() -> None:
    def noted(model: Any, graph: Any, matrix: Any) -> None:
        model.buffers.append(schema().BufferT(data=np.arange(7, dtype=np.uint8)))
        model.metadataBuffer = [len(model.buffers) - 1]

    kept = read_model(make_sparse(changed(noted))[0], "kept")
    assert bytes(kept.buffers[kept.metadataBuffer[0]].data) == bytes(range(7))


def test_a_file_of_two_graphs_comes_through_every_path_and_answers_the_same() -> None:
    content = healthy_files()[4]
    made = [make_suited(content, LITERT, "arm")[0], rewrite(content)[0]]
    expected, *found = map(by_name, answers_on_host([content, *made], random_inputs(content, "x.tflite")))
    assert {each.operator for graph in lint(content, "x.tflite", LITERT, "arm").graphs for each in graph} >= {
        "IF"
    }
    for answers in found:
        assert all(np.array_equal(answers[name], expected[name]) for name in expected)


def test_custom_operators_and_control_flow_pass_with_the_reason() -> None:
    def custom(model: Any, graph: Any, matrix: Any) -> None:
        code = model.operatorCodes[graph.operators[0].opcodeIndex]
        code.deprecatedBuiltinCode = code.builtinCode = schema().BuiltinOperator.CUSTOM
        code.customCode = "Rarely"

    content = changed(custom)
    sparse, decisions = make_sparse(content)
    assert decisions[0].operator == "CUSTOM (Rarely)" and decisions[0].encoding == "dense"
    assert "CUSTOM (Rarely) has no sparse kernel" in decisions[0].reason
    assert "fc_unstructured" in [each.encoding for each in decisions]
    kept = read_model(sparse, "sparse").operatorCodes
    assert b"Rarely" in [code.customCode for code in kept]

    def called(model: Any, graph: Any, matrix: Any) -> None:
        model.subgraphs.insert(0, schema().SubGraphT())

    model = read_model(changed(called), "called")
    for key, readers in weights_of(model):
        assert "not the main one (control flow" in str(why_not(model, key, readers, "csr_densify"))
    _, decisions = make_sparse(changed(called))
    assert {each.encoding for each in decisions} == {"dense"}

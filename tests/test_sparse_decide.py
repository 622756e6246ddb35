from __future__ import annotations

import importlib
from typing import Any, get_args

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.sparse_tflite import runtimes
from pipeline.sparse_tflite.decide import BAD, Decision, choose, decide, gate
from pipeline.sparse_tflite.encode import encode, stored_as
from pipeline.sparse_tflite.flatbuffer import read_model, write_model
from pipeline.sparse_tflite.host_interpreter import outputs_on_host
from pipeline.sparse_tflite.lint import lint
from pipeline.sparse_tflite.operators import Graph, Operator, read_graphs, view
from pipeline.sparse_tflite.rewrites import rewrite
from pipeline.sparse_tflite.runtimes import Runtime
from pipeline.sparse_tflite.schema import schema
from pipeline.sparse_tflite.stored_weights import Encoding
from pipeline.sparse_tflite.storing import make_sparse
from targets.cores import Core
from targets.provisioning.runtimes import RUNTIMES
from tests.sparse_networks import dense_file, sparse_file
from tests.tflite_files import blocked, matrix_file, operator_code

LITERT, TFLITE = runtimes.load("ai-edge-litert"), runtimes.load("tflite-runtime")
CORES: tuple[Core, ...] = get_args(Core)


def only(content: bytes) -> Operator:
    (graph,) = read_graphs(content, "file")
    (operator,) = graph.computing
    return operator


def as_stored(content: bytes, runtime: Runtime = LITERT, core: Core = "arm") -> Decision:
    operator = only(content)
    assert operator.weights is not None
    return decide(operator, runtime, core, operator.weights.encoding)


def pruned(kind: type = np.float32, share: float = 0.9, shape: tuple[int, int] = (64, 64)) -> np.ndarray:
    random = np.random.default_rng(0)
    keep = random.permutation(shape[0] * shape[1]).reshape(shape) >= share * shape[0] * shape[1]
    return (random.integers(1, 100, shape) * keep).astype(kind)


FLOATS, HALVES = ("FLOAT32", "FLOAT32"), ("FLOAT32", "FLOAT16")
DYNAMIC, INTEGERS = ("FLOAT32", "INT8"), ("INT8", "INT8")


@pytest.mark.parametrize("runtime", [LITERT, TFLITE], ids=lambda runtime: runtime.name)
@pytest.mark.parametrize("block", [1, 4])
def test_direct_weights_run_sparse_at_the_version_that_knows_them(runtime: Runtime, block: int) -> None:
    matrix = pruned()
    assert as_stored(blocked(matrix, block, version=8), runtime).outcome == "runs sparse"
    for version in (1, 9):
        other = as_stored(blocked(matrix, block, version=version), runtime)
        assert (other.outcome, other.remedy) == ("would be wrong", "write version 8")


def test_direct_weights_get_that_version_where_the_converter_wrote_a_higher_one() -> None:
    """It gives all operators of a kind the version that one of them needs."""
    matrix = pruned()
    dense = matrix_file(matrix, version=9, at="dense")
    model = read_model(dense, "dense")
    encode(model, {(0, 1): "fc_unstructured"})
    written = write_model(model)
    assert only(written).version == 8
    assert as_stored(written).outcome == "runs sparse"
    inputs = np.eye(64, dtype=np.float32)
    assert np.array_equal(outputs_on_host(written, inputs), outputs_on_host(dense, inputs))


@pytest.mark.parametrize(
    ("runtime", "kinds", "block", "outcome"),
    [
        (LITERT, HALVES, 4, "would be wrong"),
        (TFLITE, HALVES, 4, "would be wrong"),
        (LITERT, DYNAMIC, 16, "would be wrong"),
        (LITERT, INTEGERS, 16, "runs sparse"),
        (TFLITE, INTEGERS, 16, "would be wrong"),
        (LITERT, INTEGERS, 1, "would be wrong"),
    ],
)
def test_blocks_in_other_precisions(
    runtime: Runtime, kinds: tuple[str, str], block: int, outcome: str
) -> None:
    kind = np.float16 if kinds == HALVES else np.int8
    matrix = np.repeat(pruned(kind, shape=(64, 64 // block)), block, axis=1)
    assert as_stored(blocked(matrix, block, kinds=kinds, version=8), runtime).outcome == outcome


@pytest.mark.parametrize(
    ("runtime", "kinds", "outcome"),
    [
        (LITERT, FLOATS, "stored sparse for size only"),
        (LITERT, HALVES, "stored sparse for size only"),
        (LITERT, DYNAMIC, "does not load"),
        (LITERT, INTEGERS, "does not load"),
        (TFLITE, FLOATS, "stored sparse for size only"),
        (TFLITE, HALVES, "stored sparse for size only"),
        (TFLITE, INTEGERS, "stored sparse for size only"),
    ],
)
def test_weights_behind_densify(runtime: Runtime, kinds: tuple[str, str], outcome: str) -> None:
    kind = {"FLOAT32": np.float32, "FLOAT16": np.float16, "INT8": np.int8}[kinds[1]]
    assert as_stored(matrix_file(pruned(kind), kinds, at="densify"), runtime).outcome == outcome


@pytest.mark.parametrize("at", ["direct", "densify"])
def test_sparse_weights_without_a_value_do_not_load(at: str) -> None:
    """TensorFlow's sparse conversion writes such files, of layers that hold nothing but zeros."""
    model = read_model(matrix_file(pruned(), at=at), "nothing")
    model.buffers[1].data = None
    found = lint(write_model(model), "nothing", LITERT, "arm")
    assert [(each.outcome, each.remedy) for each in found.bad] == [
        ("does not load", "store the weights densely")
    ]
    with pytest.raises(UserError, match="cannot run"):
        outputs_on_host(write_model(model), np.ones((1, 64), np.float32))


def test_blocks_that_do_not_fill_a_row_are_wrong() -> None:
    """TensorFlow's sparse conversion writes them: of 6 inputs, a block of 4, and nothing of the others."""
    model = read_model(matrix_file(np.ones((4, 4), np.float32), version=8), "cut")
    model.subgraphs[0].tensors[1] = (
        read_model(blocked(np.ones((4, 4), np.float32), 4), "4").subgraphs[0].tensors[1]
    )
    for number in (0, 1):
        model.subgraphs[0].tensors[number].shape = (1 if number == 0 else 4, 6)
    (found,) = lint(write_model(model), "cut", LITERT, "arm").bad
    assert (found.outcome, found.encoding) == ("would be wrong", "fc_1x4")
    assert "do not fill rows of 6" in found.reason


def test_integers_behind_densify_load_at_the_version_that_knows_sparse_weights_which_is_written() -> None:
    old = as_stored(matrix_file(pruned(np.int8), INTEGERS, at="densify"))
    assert (old.outcome, old.remedy) == ("does not load", "write version 8")
    model = read_model(matrix_file(pruned(np.int8), INTEGERS, at="dense"), "integers")
    encode(model, {(0, 1): "csr_densify"})
    written = only(write_model(model))
    assert written.version == 8
    assert decide(written, LITERT, "arm", "csr_densify").outcome == "stored sparse for size only"


@pytest.mark.parametrize(("block", "encoding"), [(1, "csr_densify"), (16, "fc_1x16")])
def test_integers_go_into_blocks_where_these_hold_the_zeros(block: int, encoding: str) -> None:
    matrix = np.repeat(pruned(np.int8, share=0.95, shape=(64, 64 // block)), block, axis=1)
    assert decide(only(matrix_file(matrix, INTEGERS, at="dense")), LITERT, "arm").encoding == encoding


def test_a_version_that_the_runtime_lacks_is_named_with_the_remedy() -> None:
    operator = only(matrix_file(pruned(np.int8), DYNAMIC, version=12, at="dense"))
    found = gate(operator, TFLITE, None)
    assert found is not None
    assert found.outcome == "does not load"
    assert found.reason == "FULLY_CONNECTED version 12 is needed, tflite-runtime 2.14 has versions 1 to 10"
    assert "float16" in found.remedy
    assert gate(operator, LITERT, None) is None
    assert decide(operator, TFLITE, "arm") == found


def test_an_operator_that_is_refused_in_a_precision_is_named() -> None:
    model = read_model(matrix_file(pruned(np.int8), DYNAMIC, at="dense"), "transposed")
    model.operatorCodes = [operator_code("TRANSPOSE_CONV", 1)]
    operator = model.subgraphs[0].operators[0]
    operator.inputs = [-1, 1, 0]
    found = gate(only(write_model(model)), TFLITE, "arm")
    assert found is not None
    assert "dynamic range TRANSPOSE_CONV is refused" in found.reason
    assert gate(only(write_model(model)), LITERT, "arm") is None


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs", "scales", "loads"),
    [
        (1, 16, 8, 8, True),
        (1, 8, 4, 4, True),
        (1, 7, 8, 8, False),
        (1, 16, 3, 3, False),
        (2, 16, 8, 8, False),
        (1, 7, 8, 1, True),
        (2, 7, 1, 1, True),
    ],
)
@pytest.mark.parametrize("at", ["dense", "densify"])
def test_integers_without_a_bias_crash_one_runtime_on_arm(
    rows: int, inputs: int, outputs: int, scales: int, loads: bool, at: str
) -> None:
    model = read_model(matrix_file(pruned(np.int8, shape=(outputs, inputs)), INTEGERS, at=at), "integers")
    graph = model.subgraphs[0]
    graph.tensors[0].shape, graph.tensors[2].shape = (rows, inputs), (rows, outputs)
    for number, count in ((0, 1), (1, scales), (3, scales)):
        told = graph.tensors[number].quantization = schema().QuantizationParametersT()
        told.scale, told.zeroPoint = np.full(count, 0.5, np.float32), np.zeros(count, np.int64)
    content = write_model(model)
    for core in CORES:
        found = gate(only(content), TFLITE, core)
        assert (found is None) == (loads or core == "x86")
        assert found is None or (found.outcome == "does not load" and "zero_bias" in found.remedy)
        assert gate(only(content), LITERT, core) is None
    assert gate(only(content), TFLITE, None) is None
    mended, done = rewrite(content, ["zero_bias"])
    assert done == {"zero_bias": 1}
    bias = only(mended).inputs[2]
    assert bias is not None and (bias.dtype, bias.shape, bias.scales) == ("int32", (outputs,), scales)
    assert gate(only(mended), TFLITE, "arm") is None
    assert rewrite(mended, ["zero_bias"]) == (mended, {"zero_bias": 0})


def test_custom_operators_are_known_by_name() -> None:
    model = read_model(matrix_file(pruned(), at="dense"), "custom")
    model.operatorCodes = [operator_code("CUSTOM", 1)]
    for name, outcome in ((b"FlexErf", "does not load"), (b"TFLite_Detection_PostProcess", "runs dense")):
        model.operatorCodes[0].customCode = name
        assert decide(only(write_model(model)), LITERT, "arm", "dense").outcome == outcome


@pytest.mark.parametrize("share", [0, 0.3, 0.5, 0.9, 1])
def test_what_is_best_is_the_smallest_and_sizes_are_exact(share: float) -> None:
    matrix = pruned(share=share, shape=(40, 300))
    operator = only(matrix_file(matrix, at="dense"))
    best = decide(operator, LITERT, "arm")
    assert operator.weights is not None
    sizes = {name: stored_as(matrix, name).nbytes for name in ("csr_densify", "fc_unstructured", "fc_1x4")}
    sizes["dense"] = matrix.nbytes
    assert {name: operator.weights.stored_bytes(name) for name in sizes} == sizes  # type: ignore[arg-type]
    # DENSIFY is for what no kernel reads as it is, and here for what that would make larger.
    direct = {name: size for name, size in sizes.items() if name.startswith("fc_") and size < sizes["dense"]}
    smallest = min(direct or sizes, key=lambda name: sizes[name])
    assert best.encoding == smallest
    assert (best.outcome == "runs sparse") == (share >= 0.7)


def test_a_kernel_that_is_slower_than_dense_is_for_size_only() -> None:
    operator = only(matrix_file(pruned(), at="dense"))
    assert decide(operator, LITERT, "arm").outcome == "runs sparse"
    found = decide(operator, LITERT, "x86")
    assert (found.encoding, found.outcome) == ("fc_unstructured", "stored sparse for size only")
    assert "faster above" in found.reason


@pytest.mark.parametrize("kinds", [DYNAMIC, HALVES, INTEGERS])
@pytest.mark.parametrize("runtime", [LITERT, TFLITE], ids=lambda runtime: runtime.name)
def test_what_is_best_is_never_bad(kinds: tuple[str, str], runtime: Runtime) -> None:
    kind = np.float16 if kinds == HALVES else np.int8
    operator = only(matrix_file(pruned(kind), kinds, at="dense"))
    for core in CORES:
        found = decide(operator, runtime, core)
        storage = runtime.fate(operator, found.encoding)
        assert found.outcome not in BAD
        assert found.encoding == "dense" or (storage and storage.fate in ("kernel", "densified"))


@pytest.mark.parametrize("name", ["stride 2 same", "second output", "max pool"])
def test_no_weight_goes_behind_densify_where_one_operator_would_be_wrong(name: str) -> None:
    (graph,) = read_graphs(sparse_file(name), name)
    encodings = {each.weights.encoding for each in graph.computing if each.weights}
    assert "csr_densify" in encodings
    best = {
        decide(each, LITERT, "arm").encoding for each in graph.computing if each.kind != "FULLY_CONNECTED"
    }
    assert best == {"dense"}
    assert "csr_densify" in {decide(each, LITERT, "x86").encoding for each in graph.computing}


@pytest.mark.parametrize(("nonzeros", "sparse"), [(21, True), (22, False)])
def test_a_cluster_needs_more_than_two_thirds_of_zeros(nonzeros: int, sparse: bool) -> None:
    model = read_model(dense_file("base"), "base")
    graph = model.subgraphs[0]
    for tensor in graph.tensors:
        if tuple(tensor.shape) == (8, 1, 1, 8):
            values = np.zeros(64, np.float32)
            values[:nonzeros] = 1
            model.buffers[tensor.buffer].data = values.view(np.uint8)
    found = [
        decide(each, TFLITE, "arm-fp16")
        for each in view(model, graph).computing
        if each.weights and each.weights.shape == (8, 1, 1, 8)
    ]
    assert len(found) == 2
    assert {each.encoding for each in found} == {"csr_densify"}
    assert {each.outcome for each in found} == {"runs sparse" if sparse else "stored sparse for size only"}
    assert sparse or all("more than 2/3" in each.reason for each in found)


def test_a_dense_matrix_after_the_mean_counts_unless_it_is_read_directly() -> None:
    (graph,) = read_graphs(sparse_file("base"), "base")
    assert any(each.kind == "FULLY_CONNECTED" for each in graph.computing)
    found = decide(graph.computing[3], LITERT, "arm")
    assert found.encoding == "csr_densify"
    assert found.outcome == "runs sparse"


@pytest.mark.parametrize("content", ["base", "max pool", "half"])
def test_what_is_chosen_can_be_written_and_answers_as_before(content: str) -> None:
    dense = matrix_file(pruned(np.float16), HALVES, at="dense") if content == "half" else dense_file(content)
    for runtime in (LITERT, TFLITE):
        for core in CORES:
            chosen = choose(read_graphs(dense, "dense"), runtime, core)
            model = read_model(dense, "dense")
            encode(model, {key: decision.encoding for key, decision in chosen.items()})
            written = write_model(model)
            assert not lint(written, "written", runtime, core).bad
    if content != "half":
        inputs = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)
        expected = outputs_on_host(dense, inputs)
        limit = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(outputs_on_host(written, inputs), expected, rtol=0, atol=limit)


def test_what_make_sparse_writes_runs() -> None:
    content, _ = make_sparse(matrix_file(pruned(), at="dense"))
    assert as_stored(content).outcome == "runs sparse"


@pytest.mark.parametrize("file", runtimes.names())
def test_the_contract_of_a_runtime(file: str) -> None:
    runtime: Runtime = importlib.import_module(f"pipeline.sparse_tflite.runtimes.{file}").RUNTIME
    assert file == f"{runtime.name}-{runtime.release}".replace("-", "_").replace(".", "_")
    assert runtimes.load(runtime.name) is runtime
    operators = {name for name in vars(schema().BuiltinOperator) if not name.startswith("_")}
    named = set(runtime.versions) | runtime.xnnpack.delegated | runtime.xnnpack.fitness.unary
    assert named <= operators
    assert runtime.xnnpack.delegated <= set(runtime.versions)
    assert all(1 <= first <= last for first, last in runtime.versions.values())
    assert set(runtime.break_even) <= {(core, encoding) for core in CORES for encoding in get_args(Encoding)}
    asked = [(name, each.precision, each.encoding) for each in runtime.storage for name in each.operators]
    assert len(asked) == len(set(asked))
    assert all(each.words for each in runtime.storage if each.fate != "densified")


@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda runtime: runtime.name)
def test_every_runtime_that_a_device_may_get_has_rules_of_its_release(runtime: Any) -> None:
    assert runtime.requirements[0].startswith(f"{runtime.name}=={runtimes.load(runtime.name).release}.")


def test_an_unknown_runtime_is_told() -> None:
    with pytest.raises(ValueError, match="known: ai-edge-litert, tflite-runtime"):
        runtimes.load("litert")


def test_graphs_are_compared_by_identity() -> None:
    first, second = (read_graphs(sparse_file("base"), "base")[0] for _ in range(2))
    assert isinstance(first, Graph)
    assert first != second

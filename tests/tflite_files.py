"""Small .tflite files, written by hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.sparse_tflite.flatbuffer import read_model, write_model
from pipeline.sparse_tflite.schema import schema


def matrix_file(
    matrix: np.ndarray, kinds: tuple[str, str] = ("FLOAT32", "FLOAT32"), version: int = 1, at: str = "direct"
) -> bytes:
    """A file of one FULLY_CONNECTED, written by hand; `kinds` are the types of its input and weights, `at` how the
    weights are stored: dense, direct (as `matrix` is laid out), or behind DENSIFY."""
    tables = schema()
    rows, columns = matrix.shape
    model, graph = tables.ModelT(), tables.SubGraphT()
    model.version, model.buffers = 3, [tables.BufferT(), tables.BufferT()]
    model.buffers[1].data = matrix.view(np.uint8).ravel()
    graph.tensors, graph.inputs, graph.outputs = [], [0], [2]
    shapes = ((1, columns), (rows, columns), (1, rows), (rows, columns))
    for number, (shape, kind) in enumerate(zip(shapes, (*kinds, kinds[0], kinds[1]), strict=True)):
        tensor = tables.TensorT()
        tensor.name, tensor.shape, tensor.type = b"model/layer/step", shape, getattr(tables.TensorType, kind)
        tensor.buffer = int(number == 1)
        graph.tensors.append(tensor)
    operator = tables.OperatorT()
    operator.inputs, operator.outputs = [0, 1, -1], [2]
    operator.builtinOptionsType = tables.BuiltinOptions.FullyConnectedOptions
    operator.builtinOptions = tables.FullyConnectedOptionsT()
    graph.operators = [operator]
    model.subgraphs, model.operatorCodes = [graph], [operator_code("FULLY_CONNECTED", version)]
    if at == "densify":
        unpack = tables.OperatorT()
        unpack.inputs, unpack.outputs, unpack.opcodeIndex, operator.inputs = [1], [3], 1, [0, 3, -1]
        graph.operators = [unpack, operator]
        model.operatorCodes.append(operator_code("DENSIFY", 1))
    if at != "dense":
        graph.tensors[1].sparsity = _sparsity(rows, columns, 1)
    return write_model(model)


def operator_code(kind: str, version: int) -> Any:
    code = schema().OperatorCodeT()
    code.builtinCode = getattr(schema().BuiltinOperator, kind)
    code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), version
    return code


def _sparsity(rows: int, columns: int, block: int) -> Any:
    tables = schema()
    found = tables.SparsityParametersT()
    found.traversalOrder, found.blockMap = [0, 1], []
    found.dimMetadata = [tables.DimensionMetadataT() for _ in range(2)]
    if block > 1:
        found.traversalOrder, found.blockMap = [0, 1, 2], [1]
        found.dimMetadata.append(tables.DimensionMetadataT())
        found.dimMetadata[2].denseSize = block
    return found


def blocked(matrix: np.ndarray, block: int, **options: Any) -> bytes:
    """As `matrix_file`, stored directly in blocks."""
    model = read_model(matrix_file(matrix, **options), "blocks")
    tensor = model.subgraphs[0].tensors[1]
    tensor.sparsity = _sparsity(*matrix.shape, block)
    return write_model(model)


def endless_file() -> bytes:
    """A file whose only operator, an IF, runs the graph that it stands in."""
    tables = schema()
    model, graph, operator = tables.ModelT(), tables.SubGraphT(), tables.OperatorT()
    graph.tensors = [tables.TensorT() for _ in range(3)]
    for tensor, (name, kind) in zip(
        graph.tensors, (("given", "FLOAT32"), ("always", "BOOL"), ("found", "FLOAT32")), strict=True
    ):
        tensor.name, tensor.shape, tensor.type = name, [1], getattr(tables.TensorType, kind)
    model.version, model.buffers = 3, [tables.BufferT(), tables.BufferT()]
    model.buffers[1].data, graph.tensors[1].buffer = np.ones(1, np.uint8), 1
    graph.inputs, graph.outputs, graph.operators = [0], [2], [operator]
    operator.inputs, operator.outputs = [1, 0], [2]
    operator.builtinOptionsType, operator.builtinOptions = (
        tables.BuiltinOptions.IfOptions,
        tables.IfOptionsT(),
    )
    model.subgraphs, model.operatorCodes = [graph], [operator_code("IF", 1)]
    return write_model(model)

"""Store FULLY_CONNECTED weights sparsely in a .tflite file, where that makes the file smaller."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from pipeline.sparse_tflite import encoding
from pipeline.sparse_tflite.flatbuffer import constant, damage_is_told, read_model, write_model
from pipeline.sparse_tflite.schema import schema

SPARSE_VERSION = 8


class EncodingDecision(BaseModel):
    """How one operator's weights are stored, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    operator: str
    tensor: str
    encoding: str
    reason: str
    zeros: float
    dense_bytes: int
    stored_bytes: int


def make_sparse(content: bytes, name: str = "model.tflite") -> tuple[bytes, list[EncodingDecision]]:
    """Rewrite a dense float32 .tflite file with its pruned FULLY_CONNECTED weights stored directly sparse.

    The operator's version becomes 8: with a lower one a delegate may take the weights for dense ones and answer
    wrongly. All other weights stay dense, each with its reason. When nothing becomes sparse, the bytes returned
    are those received.
    """
    model = read_model(content, name)
    with damage_is_told(name):
        decisions = [
            decision
            for graph in model.subgraphs
            for operator in graph.operators or []
            for decision in _encode(model, graph, operator)
        ]
        if all(decision.encoding == "dense" for decision in decisions):
            return content, decisions
        _drop_unused_data(model)
        return write_model(model), decisions


def _encode(model: Any, graph: Any, operator: Any) -> list[EncodingDecision]:
    """The decisions about an operator's weights, carried out; none for an operator without any."""
    return [
        _decide(model, graph, operator, position)
        for position, index in enumerate(operator.inputs)
        if index >= 0 and _is_weight(model, graph.tensors[index])
    ]


def _is_weight(model: Any, tensor: Any) -> bool:
    """A constant of two dimensions or more, of a type that weights have (paddings and shapes are integers)."""
    kinds = schema().TensorType
    weight_types = (kinds.FLOAT32, kinds.FLOAT16, kinds.INT8, kinds.UINT8, kinds.INT16, kinds.INT4)
    has_data = model.buffers[tensor.buffer].data is not None
    return has_data and tensor.shape is not None and len(tensor.shape) > 1 and tensor.type in weight_types


def _decide(model: Any, graph: Any, operator: Any, position: int) -> EncodingDecision:
    tensor = graph.tensors[operator.inputs[position]]
    kind, weights = _operator_name(model, operator), constant(model, tensor)
    stored = len(model.buffers[tensor.buffer].data)
    if weights is None:
        layout, reason = None, "only dense float32 weights are rewritten; these are left as they are"
    elif position != 1 and kind == "FULLY_CONNECTED":
        layout, reason = None, "the matrix is no weight of the operator"
    else:
        layout, reason = _choose(model, graph, operator, kind, weights)
    if layout is not None:
        _store(model, tensor, layout)
        operator.opcodeIndex = _operator_code(model, operator.opcodeIndex)
    return EncodingDecision(
        operator=kind,
        tensor=tensor.name.decode(),
        encoding=layout.name if layout else "dense",
        reason=reason,
        zeros=0.0 if weights is None else float(np.mean(weights == 0)),
        dense_bytes=stored,
        stored_bytes=layout.nbytes if layout else stored,
    )


def _choose(
    model: Any, graph: Any, operator: Any, kind: str, weights: np.ndarray
) -> tuple[encoding.SparseMatrix | None, str]:
    if kind != "FULLY_CONNECTED":
        return None, f"{kind} has no sparse kernel of the runtime's own; its zeros are stored densely"
    if weights.ndim != 2 or operator.builtinOptions.weightsFormat != 0:
        return None, "the weights are not a plain matrix"
    users = [
        (other, at)
        for other in graph.operators
        for at, index in enumerate(other.inputs)
        if index == operator.inputs[1]
    ]
    buffer = graph.tensors[operator.inputs[1]].buffer
    sharing = sum(tensor.buffer == buffer for each in model.subgraphs for tensor in each.tensors)
    if len(users) != 1 or sharing != 1:
        return None, "the weights are shared with another operator"
    layout = encoding.smallest(weights)
    if layout.nbytes >= weights.nbytes:
        return None, f"sparse storage would take {layout.nbytes:,} bytes, dense takes {weights.nbytes:,}"
    return layout, f"{layout.name} takes {layout.nbytes:,} bytes, dense takes {weights.nbytes:,}"


def _operator_name(model: Any, operator: Any) -> str:
    code = model.operatorCodes[operator.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    names: dict[int, str] = {
        value: name for name, value in vars(schema().BuiltinOperator).items() if not name.startswith("_")
    }
    return names.get(number, f"operator {number}")


def _operator_code(model: Any, index: int) -> int:
    """The index of the same operator at the version that knows sparse weights, added when it is not there."""
    old = model.operatorCodes[index]
    version = max(old.version, SPARSE_VERSION)
    for at, code in enumerate(model.operatorCodes):
        same = (code.builtinCode, code.deprecatedBuiltinCode) == (old.builtinCode, old.deprecatedBuiltinCode)
        if same and code.version == version:
            return at
    code = schema().OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = (
        old.builtinCode,
        old.deprecatedBuiltinCode,
        version,
    )
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _store(model: Any, tensor: Any, layout: encoding.SparseMatrix) -> None:
    tables = schema()
    rows, columns = tables.DimensionMetadataT(), tables.DimensionMetadataT()
    rows.format, rows.denseSize = tables.DimensionType.DENSE, layout.rows
    columns.format = tables.DimensionType.SPARSE_CSR
    columns.arraySegmentsType, columns.arraySegments = _index_vector(layout.segments)
    columns.arrayIndicesType, columns.arrayIndices = _index_vector(layout.indices)
    sparsity = tables.SparsityParametersT()
    sparsity.traversalOrder, sparsity.blockMap, sparsity.dimMetadata = [0, 1], [], [rows, columns]
    if layout.block > 1:
        inner = tables.DimensionMetadataT()
        inner.format, inner.denseSize = tables.DimensionType.DENSE, layout.block
        sparsity.traversalOrder, sparsity.blockMap = [0, 1, 2], [1]
        sparsity.dimMetadata.append(inner)
    tensor.sparsity = sparsity
    model.buffers[tensor.buffer].data = layout.values.astype("<f4").view(np.uint8)


def _index_vector(values: np.ndarray) -> tuple[int, Any]:
    tables = schema()
    kind = {"uint8": "Uint8Vector", "uint16": "Uint16Vector", "int32": "Int32Vector"}[values.dtype.name]
    vector = getattr(tables, f"{kind}T")()
    vector.values = values
    return getattr(tables.SparseIndexVector, kind), vector


def _drop_unused_data(model: Any) -> None:
    """Empty the buffers that no tensor and no metadata refers to any more; buffer 0 is empty by convention."""
    used = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    used |= {entry.buffer for entry in model.metadata or []}
    for index, buffer in enumerate(model.buffers):
        if index not in used:
            buffer.data = None

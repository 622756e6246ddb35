"""Store constants of a .tflite file in the encodings that were chosen for them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from pipeline.sparse_tflite.encoding import SparseTensor, rows_of_blocks
from pipeline.sparse_tflite.encoding import encode as encode_tensor
from pipeline.sparse_tflite.schema import schema
from pipeline.sparse_tflite.smallest import smallest_layout
from pipeline.sparse_tflite.weights import KERNEL_AT, Key, Reader, values_of, weights_of

# The version of FULLY_CONNECTED that knows sparse weights; of any other, XNNPACK takes them for dense ones.
DIRECT_VERSION = 8
# What a direct encoding takes: the size of its blocks along the inputs, and the only type its kernel has.
DIRECT = {"fc_unstructured": (1, np.float32), "fc_1x4": (4, np.float32), "fc_1x16": (16, np.int8)}
ENCODINGS = ("dense", "csr_densify", *DIRECT)
# What an encoding adds to the file beside values and indices, in bytes, at most: its tables, names, the operator.
OVERHEAD = {"csr_densify": 350, "fc_unstructured": 190, "fc_1x4": 200, "fc_1x16": 230}
# The operators whose kernels may come out of a DENSIFY; TensorFlow's own converter takes the same.
DENSIFIED = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED")


def encode(model: Any, choices: Mapping[Key, str]) -> dict[Key, SparseTensor]:
    """Change the `ModelT` so that each tensor is stored as `choices` says, one of `ENCODINGS`; others stay dense.

    `csr_densify`: in the smallest layout that the format has, behind a DENSIFY operator, which makes it dense again
    when the model is first run. `fc_...`: directly at the FULLY_CONNECTED operator that reads it. Returns what was
    stored sparsely. Raises `ValueError` with the reason, before any change, for a choice that `why_not` refuses.
    """
    readers = dict(weights_of(model))
    for key, encoding in choices.items():
        reason = why_not(model, key, readers.get(key, []), encoding)
        if reason is not None:
            raise ValueError(f"tensor {key[1]} of graph {key[0]} cannot be stored as {encoding}: {reason}")
    stored = {}
    # In one order, so that the same choices give the same bytes.
    for key, encoding in sorted(choices.items()):
        if encoding != "dense":
            graph, tensor = _tensor(model, key)
            stored[key] = stored_as(cast(np.ndarray, values_of(model, tensor)), encoding)
            if encoding == "csr_densify":
                if tensor.type == schema().TensorType.INT8:
                    _at_direct_version(model, readers[key])
                tensor = _behind_densify(model, graph, key[1], readers[key])
            else:
                _at_direct_version(model, readers[key])
            tensor.sparsity = _parameters(stored[key])
            model.buffers[tensor.buffer].data = stored[key].values.view(np.uint8)
    return stored


def stored_as(values: np.ndarray, encoding: str) -> SparseTensor:
    """The tensor as a sparse `encoding` stores it."""
    if encoding == "csr_densify":
        return encode_tensor(values, smallest_layout(values))
    return encode_tensor(values, rows_of_blocks(DIRECT[encoding][0]))


def why_not(model: Any, key: Key, readers: list[Reader], encoding: str) -> str | None:
    """Why the format or its kernels cannot hold the tensor in that encoding; None when they can. `readers` are all."""
    if encoding not in ENCODINGS:
        return f"unknown encoding; known: {', '.join(ENCODINGS)}"
    if encoding == "dense":
        return None
    graph, tensor = _tensor(model, key)
    if key[0] != 0:
        return "it belongs to a graph that is not the main one (control flow, or another signature)"
    if tensor.sparsity is not None:
        return "it is stored sparsely already"
    values = values_of(model, tensor)
    if values is None or not readers:
        return "it is no constant of float32, float16 or int8 that an operator reads"
    if values.size == 0 or values.ndim > 4:
        return f"expected at least one value and at most four dimensions, received {values.shape}"
    sharing = sum(other.buffer == tensor.buffer for each in model.subgraphs for other in each.tensors)
    if sharing > 1 or any(entry.buffer == tensor.buffer for entry in model.metadata or []):
        return "its data is shared with another tensor"
    if key[1] in graph.outputs:
        return "it is an output of the model"
    if encoding == "csr_densify":
        return _why_not_densified(readers)
    return _why_not_direct(tensor, values, readers, encoding)


def _why_not_densified(readers: list[Reader]) -> str | None:
    for reader in readers:
        # Of float16 weights the reader is a DEQUANTIZE, and their kernel reads what comes out of it.
        if reader.kind != "DEQUANTIZE" and (reader.kind not in DENSIFIED or reader.position != KERNEL_AT):
            return f"{reader.kind} reads it, and only kernels of {', '.join(DENSIFIED)} may come out of a DENSIFY"
    return None


def _why_not_direct(tensor: Any, values: np.ndarray, readers: list[Reader], encoding: str) -> str | None:
    block, dtype = DIRECT[encoding]
    if len(readers) > 1:
        return "the weights are shared with another operator"
    reader = readers[0]
    if reader.kind != "FULLY_CONNECTED":
        return f"{reader.kind} has no sparse kernel of the runtime's own"
    if reader.position != KERNEL_AT:
        return "the matrix is no weight of the operator"
    if values.ndim != 2 or reader.operator.builtinOptions.weightsFormat != 0:
        return "the weights are not a plain matrix"
    if values.dtype != dtype:
        return f"expected {np.dtype(dtype).name} weights, received {values.dtype.name}"
    if values.shape[1] % block:
        return f"expected inputs in multiples of {block}, received {values.shape[1]}"
    points = tensor.quantization.zeroPoint if tensor.quantization is not None else None
    if points is not None and np.any(points):
        return "expected symmetric weights, received a zero point other than 0"
    return None


def _tensor(model: Any, key: Key) -> tuple[Any, Any]:
    graph = model.subgraphs[key[0]]
    return graph, graph.tensors[key[1]]


def _behind_densify(model: Any, graph: Any, index: int, readers: list[Reader]) -> Any:
    """Let a DENSIFY write the tensor `index`, before its first reader; returns the constant that it reads.

    The tensor keeps its index, and whoever refers to it.
    """
    tables = schema()
    tensor = graph.tensors[index]
    constant = copy.copy(tensor)
    constant.name, constant.quantization = b"sparse_%d" % index, None
    graph.tensors.append(constant)
    model.buffers.append(tables.BufferT())
    tensor.buffer = len(model.buffers) - 1
    densify = tables.OperatorT()
    densify.opcodeIndex = _code(model, tables.BuiltinOperator.DENSIFY, 1)
    densify.inputs, densify.outputs = [len(graph.tensors) - 1], [index]
    first = next(at for at, operator in enumerate(graph.operators) if operator is readers[0].operator)
    graph.operators.insert(first, densify)
    return constant


def _at_direct_version(model: Any, readers: list[Reader]) -> None:
    """Lift FULLY_CONNECTED to the version that knows sparse weights: of a lower one, XNNPACK takes integers that come
    out of a DENSIFY as well, and then fails."""
    for reader in readers:
        if reader.kind == "FULLY_CONNECTED":
            reader.operator.opcodeIndex = _operator_code(model, reader.operator.opcodeIndex)


def _operator_code(model: Any, index: int) -> int:
    """The index of the same operator at the version that knows sparse weights, added when it is not there.

    The one before may be higher: the converter writes a single one for all operators of a kind.
    """
    old = model.operatorCodes[index]
    return _code(model, max(old.builtinCode, old.deprecatedBuiltinCode), DIRECT_VERSION)


def _code(model: Any, builtin: int, version: int) -> int:
    for at, code in enumerate(model.operatorCodes):
        if (max(code.builtinCode, code.deprecatedBuiltinCode), code.version) == (builtin, version):
            return at
    code = schema().OperatorCodeT()
    # The older field holds what fits it; readers take the greater one of the two.
    code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _parameters(stored: SparseTensor) -> Any:
    tables, layout = schema(), stored.layout
    sparsity = tables.SparsityParametersT()
    sparsity.traversalOrder = list(layout.order)
    sparsity.blockMap = []
    sparsity.dimMetadata = []
    for size, level in zip(layout.level_sizes(stored.shape), stored.levels, strict=True):
        entry = tables.DimensionMetadataT()
        if level is None:
            entry.format, entry.denseSize = tables.DimensionType.DENSE, size
        else:
            entry.format = tables.DimensionType.SPARSE_CSR
            entry.arraySegmentsType, entry.arraySegments = _index_vector(level.segments)
            entry.arrayIndicesType, entry.arrayIndices = _index_vector(level.indices)
        sparsity.dimMetadata.append(entry)
    if layout.block is not None:
        inner = tables.DimensionMetadataT()
        inner.format, inner.denseSize = tables.DimensionType.DENSE, layout.block_size
        sparsity.traversalOrder.append(len(layout.order))
        sparsity.blockMap = [layout.block[0]]
        sparsity.dimMetadata.append(inner)
    return sparsity


def _index_vector(values: np.ndarray) -> tuple[int, Any]:
    tables = schema()
    kind = {"uint8": "Uint8Vector", "uint16": "Uint16Vector", "int32": "Int32Vector"}[values.dtype.name]
    vector = getattr(tables, f"{kind}T")()
    vector.values = values
    return getattr(tables.SparseIndexVector, kind), vector

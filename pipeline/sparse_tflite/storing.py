"""Store weights sparsely in a .tflite file, as is chosen for each tensor, where that makes the file smaller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from pipeline.sparse_tflite.encode import OVERHEAD, encode, stored_as, why_not
from pipeline.sparse_tflite.flatbuffer import damage_is_told, read_model, write_model
from pipeline.sparse_tflite.tables import numbers
from pipeline.sparse_tflite.weights import Key, Reader, values_of, weights_of

# Of a tensor, what reads it and its values where a sparse form of them is known: the encoding, its bytes, and why.
Choice = Callable[[Any, Key, list[Reader], np.ndarray | None], tuple[str, int, str]]


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


def make_sparse(
    content: bytes, name: str = "model.tflite", choose: Choice | None = None
) -> tuple[bytes, list[EncodingDecision]]:
    """Rewrite a dense .tflite file with its weights stored as `choose` says of each tensor; without it, as all runtimes
    read them: pruned float32 weights of FULLY_CONNECTED directly sparse, all others densely, each with its reason.

    When nothing becomes sparse, or the file would not become smaller, the bytes returned are those received.
    """
    model = read_model(content, name)
    with damage_is_told(name):
        choices, decisions = {}, []
        for key, readers in weights_of(model):
            decided = _decide(model, key, readers, choose or _choose)
            choices[key] = decided[0].encoding
            decisions += decided
        if all(encoding == "dense" for encoding in choices.values()):
            return content, decisions
        encode(model, choices)
        _drop_unused_data(model)
        _drop_unused_codes(model)
        _drop_empty_quantisation(model)
        written = write_model(model)
    if len(written) < len(content):
        return written, decisions
    reason = f"with sparse weights the file would take {len(written):,} bytes, it takes {len(content):,}"
    return content, [_stay_dense(each, reason) for each in decisions]


def _decide(model: Any, key: Key, readers: list[Reader], choose: Choice) -> list[EncodingDecision]:
    """How a tensor is to be stored, once for each operator that reads it."""
    tensor = model.subgraphs[key[0]].tensors[key[1]]
    values, dense = values_of(model, tensor), len(model.buffers[tensor.buffer].data)
    encoding, stored, reason = choose(model, key, readers, values)
    return [
        EncodingDecision(
            operator=reader.kind,
            tensor=(tensor.name or b"").decode(),
            encoding=encoding,
            reason=reason,
            zeros=0.0 if values is None else float(np.mean(values == 0)),
            dense_bytes=dense,
            stored_bytes=dense if encoding == "dense" else stored,
        )
        for reader in readers
    ]


def _choose(model: Any, key: Key, readers: list[Reader], values: np.ndarray | None) -> tuple[str, int, str]:
    """The encoding of a tensor, its bytes, and why; at equal size the blocks, whose kernel is the faster one."""
    if values is None or values.dtype != np.float32:
        return "dense", 0, "only dense float32 weights are rewritten; these are left as they are"
    refused = why_not(model, key, readers, "fc_unstructured")
    if refused is not None:
        return "dense", 0, f"{refused}; its zeros are stored densely"
    possible = [each for each in ("fc_1x4", "fc_unstructured") if not why_not(model, key, readers, each)]
    sizes = {each: stored_as(values, each).nbytes for each in possible}
    best = min(possible, key=lambda each: sizes[each])
    if sizes[best] + OVERHEAD[best] >= values.nbytes:
        return "dense", 0, f"sparse storage would take {sizes[best]:,} bytes, dense takes {values.nbytes:,}"
    return best, sizes[best], f"{best} takes {sizes[best]:,} bytes, dense takes {values.nbytes:,}"


def _stay_dense(decision: EncodingDecision, reason: str) -> EncodingDecision:
    if decision.encoding == "dense":
        return decision
    changed = {"encoding": "dense", "reason": reason, "stored_bytes": decision.dense_bytes}
    return decision.model_copy(update=changed)


def _drop_unused_data(model: Any) -> None:
    """Empty the buffers that neither a tensor nor metadata, in its old form or the new, refers to any more."""
    used = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    used |= {entry.buffer for entry in model.metadata or []} | set(numbers(model.metadataBuffer))
    for index, buffer in enumerate(model.buffers):
        if index not in used:
            buffer.data = None


def _drop_unused_codes(model: Any) -> None:
    """Leave out the operators that no graph has any more, such as one of which all now are of a higher version."""
    operators = [operator for graph in model.subgraphs for operator in graph.operators or []]
    used = sorted({operator.opcodeIndex for operator in operators})
    place = {index: at for at, index in enumerate(used)}
    model.operatorCodes = [model.operatorCodes[index] for index in used]
    for operator in operators:
        operator.opcodeIndex = place[operator.opcodeIndex]


def _drop_empty_quantisation(model: Any) -> None:
    """Leave out the tables in which the converter says of a tensor of real numbers that it is not quantised."""
    for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors):
        found = tensor.quantization
        if found is not None and not any(
            value is not None and np.size(value)
            for value in (found.min, found.max, found.scale, found.zeroPoint, found.details)
        ):
            tensor.quantization = None

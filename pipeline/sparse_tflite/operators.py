"""A read-only view of a .tflite file: its operators by name, who reads whose output, and the zeros of their weights."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.sparse_tflite.flatbuffer import damage_is_told, read_model
from pipeline.sparse_tflite.stored_weights import UNPACKING, Weights, read_weights
from pipeline.sparse_tflite.tables import Tensor, kind_of, numbers, read_tensor, vector

Precision = Literal["float32", "float16", "dynamic_range", "int8", "other"]
INPUT_AT = {"TRANSPOSE_CONV": 2}


@dataclass(frozen=True, eq=False)
class Operator:
    """An operator of a graph; `options` are the schema's, None where it has none."""

    graph: Graph
    number: int
    kind: str
    version: int
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: Any
    weights: Weights | None

    @property
    def source(self) -> Tensor | None:
        """What the operator computes from: its first input, or the one that is no weight."""
        at = INPUT_AT.get(self.kind, 0)
        return self.inputs[at] if at < len(self.inputs) else None

    @property
    def precision(self) -> Precision:
        """In what the operator computes, by its weights and its input."""
        if self.weights is None or self.source is None:
            return "other"
        return _precision(self.weights.dtype, self.source.dtype)

    @property
    def title(self) -> str:
        """The operator for people: its kind, and the layer it comes from."""
        return f"{self.kind} {self.layer}".rstrip()

    @property
    def layer(self) -> str:
        """The layer, by the name of the tensor written, which the converter makes of `model/layer/step`.

        The model's outputs have other names; there the weights' name tells.
        """
        written = [tensor.name for tensor in self.outputs[:1]]
        names = [*written, *([self.weights.name] if self.weights else [])]
        paths = [name.split(";")[0].split("/") for name in names]
        return next((path[-2] for path in paths if len(path) > 1), "".join(written))


@dataclass(frozen=True, eq=False)
class Graph:
    """A subgraph: its tensors, what it takes and gives, and its operators in the order they run in."""

    tensors: tuple[Tensor, ...]
    inputs: frozenset[int]
    outputs: frozenset[int]
    operators: list[Operator]

    @functools.cached_property
    def producers(self) -> dict[int, Operator]:
        """Who writes a tensor, by the tensor's number."""
        return {tensor.number: operator for operator in self.operators for tensor in operator.outputs}

    @functools.cached_property
    def readers(self) -> dict[int, list[Operator]]:
        """Who reads a tensor, by the tensor's number; each reader once."""
        found: dict[int, list[Operator]] = {}
        for operator in self.operators:
            for number in sorted({tensor.number for tensor in operator.inputs if tensor is not None}):
                found.setdefault(number, []).append(operator)
        return found

    @functools.cached_property
    def static(self) -> frozenset[int]:
        """Tensors whose values are known when the file is loaded: constants, and what is unpacked from them."""
        found = {tensor.number for tensor in self.tensors if tensor.constant}
        for operator in self.operators:
            inputs = {tensor.number for tensor in operator.inputs if tensor is not None}
            if operator.kind in UNPACKING and inputs <= found:
                found |= {tensor.number for tensor in operator.outputs}
        return frozenset(found)

    def unpacks(self, operator: Operator) -> bool:
        """Whether the operator only prepares a constant."""
        return all(tensor.number in self.static for tensor in operator.outputs)

    @property
    def computing(self) -> list[Operator]:
        """The operators but for those that only prepare constants."""
        return [operator for operator in self.operators if not self.unpacks(operator)]


def read_graphs(content: bytes, name: str) -> list[Graph]:
    """Every subgraph of a .tflite file; `name` names the file in errors. Raises `UserError` for a damaged one."""
    model = read_model(content, name)
    with damage_is_told(name):
        return [view(model, subgraph) for subgraph in model.subgraphs or []]


def view(model: Any, subgraph: Any) -> Graph:
    """The view of a `SubGraphT` of a `ModelT`; later changes of them do not show in it."""
    tensors = tuple(
        read_tensor(model, number, tensor) for number, tensor in enumerate(vector(subgraph.tensors))
    )
    graph = Graph(tensors, frozenset(numbers(subgraph.inputs)), frozenset(numbers(subgraph.outputs)), [])
    writers = {int(number): each for each in vector(subgraph.operators) for number in vector(each.outputs)}
    for number, operator in enumerate(vector(subgraph.operators)):
        kind, version = kind_of(model, operator)
        inputs = tuple(tensors[at] if at >= 0 else None for at in numbers(operator.inputs))
        outputs = tuple(tensors[at] for at in numbers(operator.outputs))
        weights = read_weights(model, subgraph, writers, operator, kind)
        found = Operator(graph, number, kind, version, inputs, outputs, operator.builtinOptions, weights)
        graph.operators.append(found)
    return graph


def _precision(weights: str, source: str) -> Precision:
    if source == "float32":
        known: dict[str, Precision] = {
            "float32": "float32",
            "float16": "float16",
            "int8": "dynamic_range",
            "uint8": "dynamic_range",
        }
        return known.get(weights, "other")
    return "int8" if weights in ("int8", "uint8") and source in ("int8", "uint8", "int16") else "other"

"""Whether everything that a .tflite file refers to is there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np


def settle(model: Any) -> None:
    """Make an absent vector of the `ModelT` an empty one, and check every index in it.

    Python would take a negative index for one from the end, and the wrong tensor for the right one. Raises
    `ValueError` with the first index that leads nowhere.
    """
    for name in ("subgraphs", "operatorCodes", "buffers"):
        _fill(model, name)
    for number, graph in enumerate(model.subgraphs):
        for name in ("tensors", "operators", "inputs", "outputs"):
            _fill(graph, name)
        _check_graph(model, graph, f"graph {number}")
    for entry in model.metadata or []:
        _check([entry.buffer], 0, len(model.buffers), "the buffer of a metadata entry")


def _fill(table: Any, name: str) -> None:
    found = getattr(table, name)
    if found is None:
        setattr(table, name, [])
    elif any(each is None for each in found):
        raise ValueError(f"an empty place among the {name}")


def _check_graph(model: Any, graph: Any, where: str) -> None:
    tensors = len(graph.tensors)
    _check((tensor.buffer for tensor in graph.tensors), 0, len(model.buffers), f"{where}: a tensor's buffer")
    for tensor in graph.tensors:
        if tensor.shape is not None and np.any(np.asarray(tensor.shape) < 0):
            raise ValueError(f"{where}: a tensor of shape {[int(size) for size in tensor.shape[:8]]}")
    _check([*graph.inputs, *graph.outputs], 0, tensors, f"{where}: an input or output")
    for operator in graph.operators:
        _fill(operator, "inputs")
        _fill(operator, "outputs")
        _check([operator.opcodeIndex], 0, len(model.operatorCodes), f"{where}: an operator's code")
        # -1 stands for an input that is left out.
        _check(operator.inputs, -1, tensors, f"{where}: an operator's input")
        _check(operator.outputs, 0, tensors, f"{where}: an operator's output")


def _check(indices: Iterable[int], lowest: int, count: int, what: str) -> None:
    found = np.fromiter(indices, np.int64)
    wrong = found[(found < lowest) | (found >= count)]
    if wrong.size:
        raise ValueError(f"{what} is {wrong[0]}, and there are {count}")

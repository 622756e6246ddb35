"""Recovery of the Dense layers that a model ends with, in seconds: without labels or training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.models import graph
from pipeline.models.graph import Graph, Node
from pipeline.models.samples import Samples, fitting_batch
from pipeline.pruning import head
from pipeline.pruning.distance import Distance
from pipeline.pruning.head import ACTIVATIONS, Head

Array = NDArray[Any]

_LINKS: Mapping[str, Distance] = {"softmax": "softmax", "sigmoid": "sigmoid", "linear": "squared"}


def refit_head(
    dense: Any,
    model: Any,
    masks: Mapping[str, NDArray[np.bool_]],
    samples: Samples,
    steps: int,
    temperature: float = 1.0,
) -> list[float]:
    """Move the head of `model` towards the answers of `dense` to the inputs `samples` (n, ...), in place.

    The head are the Dense layers at the model's end, with nothing but dropout between them, from the first on that lost
    inputs or weights. Kernels stay zero where their masks (by layer name, of the kernel's shape) are False. Returns the
    mean distance of the outputs before and after each step taken, `steps` at the most, see `head`; none where nothing
    was lost. Raises `ValueError` for a model that does not end with a Dense layer.
    """
    wired, before = Graph(model), Graph(dense)
    nodes, kind = _head(wired)
    lost = [
        node.name in masks or node.layer.kernel.shape[0] < before.nodes[node.name].layer.kernel.shape[0]
        for node in nodes
    ]
    if True not in lost:
        return []
    nodes = nodes[lost.index(True) :]
    last = before.nodes[nodes[-1].name]
    target = _entering(before, last.name, samples) @ _matrix(last.layer)[:-1] + _matrix(last.layer)[-1]
    given = Head(
        entering=_entering(wired, nodes[0].name, samples),
        target=target,
        activations=[_activation(node) for node in nodes[:-1]],
        kind=kind,
        temperature=temperature,
    )
    free = [_free(node.layer, masks.get(node.name)) for node in nodes]
    found = head.refit(given, [_matrix(node.layer) for node in nodes], free, steps)
    for node, matrix in zip(nodes, found.weights, strict=True):
        node.layer.set_weights([matrix[:-1], *([matrix[-1]] if node.layer.use_bias else [])])
    return found.distances


def check_head(model: Any) -> None:
    """Raise `ValueError` for a model that `refit_head` refuses."""
    _head(Graph(model))


def _head(wired: Graph) -> tuple[Sequence[Node], Distance]:
    """The Dense layers at the model's end, and how its outputs are compared."""
    if len(wired.model.outputs) != 1:
        raise ValueError(f"expected a model of one output, received one of {len(wired.model.outputs)}")
    end = next(node for node in wired.nodes.values() if node.is_output)
    found: list[Node] = []
    kind = _LINKS.get(_activation(end))
    node: Node | None = end
    if end.kind == "Softmax":
        kind, node = "softmax", _producer(wired, end)
    elif end.kind == "Activation":
        node = _producer(wired, end)
    while node is not None and (node.kind == "Dropout" or _is_plain(node, last=not found)):
        if node.kind == "Dense":
            found.insert(0, node)
        node = _producer(wired, node)
    if kind is None or not found:
        raise ValueError("expected a model that ends with a Dense layer, linear or with softmax or sigmoid")
    return found, kind


def _producer(wired: Graph, node: Node) -> Node | None:
    """The one that only this node reads."""
    if len(node.producers) != 1:
        return None
    producer = wired.nodes[node.producers[0]]
    return producer if len(producer.consumers) == 1 and not producer.is_output else None


def _is_plain(node: Node, last: bool) -> bool:
    known = _LINKS if last and node.is_output else {"linear"} if last else ACTIVATIONS
    return (
        node.kind == "Dense"
        and graph.why_not_elements(node) is None
        and len(node.source.shape) == 2
        and _activation(node) in known
    )


def _activation(node: Node) -> str:
    return str(graph.settings(node.layer).get("activation", ""))


def _entering(wired: Graph, name: str, samples: Samples) -> Array:
    found = np.concatenate(list(wired.inputs(name, samples, fitting_batch(samples))))
    if not np.isfinite(found).all():
        raise ValueError("expected finite activations on the samples, received NaN or infinity")
    return found


def _matrix(layer: Any) -> Array:
    """Kernel and biases, those that the layer has not at zero, (d + 1, r)."""
    kernel, *bias = layer.get_weights()
    return np.vstack([kernel, bias[0] if bias else np.zeros(kernel.shape[1], kernel.dtype)])


def _free(layer: Any, mask: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    kernel = np.ones(layer.kernel.shape, bool) if mask is None else mask
    return np.vstack([kernel, np.full(kernel.shape[1], bool(layer.use_bias))])

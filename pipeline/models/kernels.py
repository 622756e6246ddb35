"""Kernels: the matrices of weights within the layers of a model from which single weights can be removed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.models.einsum import Einsum
from pipeline.models.graph import Graph
from pipeline.models.node import RECURRENT_KINDS, Node, why_not_elements

Array = NDArray[Any]


@dataclass(frozen=True)
class Kernel:
    """A kernel of the layer `node`, seen as a matrix (d, r) with which inputs are multiplied.

    `name` is that of the layer, and where the layer has several kernels also what it calls this one:
    'lstm/recurrent_kernel', 'attention/query/kernel'. `owner` is the layer, sub-layer or cell that multiplies with
    it, and `attribute` what it holds it as.
    """

    name: str
    node: Node
    owner: Any
    attribute: str

    @property
    def variable(self) -> Any:
        """The Keras variable, in its own shape."""
        return getattr(self.owner, self.attribute)

    @property
    def is_product(self) -> bool:
        """Is the layer nothing but this product, so that what enters the layer enters the kernel?"""
        return self.owner is self.node.layer

    @property
    def shape(self) -> tuple[int, int]:
        """(d, r): the axes of inputs, which come first, and those of outputs, each flattened."""
        axes = self.variable.shape
        inputs = len(Einsum(self.owner.equation).summed) if _is_einsum(self.owner) else len(axes) - 1
        return int(np.prod(axes[:inputs])), int(np.prod(axes[inputs:]))

    def matrix(self) -> NDArray[np.float32]:
        """Its weights (d, r)."""
        return np.asarray(self.variable, np.float32).reshape(self.shape)

    def output_rows(self, leaving: Array) -> Array:
        """What leaves the product, or numbers of its shape, as rows (n, r)."""
        if _is_einsum(self.owner):
            return Einsum(self.owner.equation).output_rows(leaving)
        return leaving.reshape(-1, leaving.shape[-1])


def kernels_of(node: Node) -> list[Kernel]:
    """The layer's kernels, in the order in which it runs them; none where no weight of it is removed."""
    if why_not_elements(node) is not None:
        return []
    return [
        Kernel("/".join([node.name, *([part] if part else [])]), node, owner, attribute)
        for part, owner, attribute in _parts(node.layer)
    ]


def kernel_named(wired: Graph, name: str) -> Kernel:
    """The kernel `name` of the model. Raises `KeyError` where it has none."""
    node = wired.nodes[name.split("/")[0]]
    return {kernel.name: kernel for kernel in kernels_of(node)}[name]


def why_not_pruned(kernel: Kernel, calibrated: bool = False) -> str | None:
    """A sentence saying why no weight of the kernel is removed; None when some can be.

    `calibrated`: by a method that has to see what enters the kernel.
    """
    owner = kernel.owner
    if _is_einsum(owner) and (reason := Einsum(owner.equation).why_no_matrix()) is not None:
        return reason
    if not calibrated:
        return None
    if kernel.attribute == "pointwise_kernel":
        return (
            "What enters its pointwise kernel is made within the layer and not seen; magnitude can prune it."
        )
    if getattr(owner, "reset_after", True) is False and kernel.attribute == "recurrent_kernel":
        return "A part of it multiplies the state, a part the state after the reset gate; magnitude can prune it."
    return None


def _parts(layer: Any) -> Iterator[tuple[str, Any, str]]:
    """What the layer calls each of its kernels, '' where it has but one, and owner and attribute."""
    kind = type(layer).__name__
    if kind == "Bidirectional":
        for side, inner in (("forward", layer.forward_layer), ("backward", layer.backward_layer)):
            yield from ((f"{side}/{part}", owner, attribute) for part, owner, attribute in _parts(inner))
    elif kind == "TimeDistributed":
        yield from _parts(layer.layer)
    elif kind == "MultiHeadAttention":
        gate = [("gate", layer._gate_dense)] if layer.get_config()["use_gate"] else []
        named = [("query", layer.query_dense), ("key", layer.key_dense), ("value", layer.value_dense)]
        for part, owner in [*gate, *named, ("output", layer.output_dense)]:
            yield f"{part}/kernel", owner, "kernel"
    elif kind in RECURRENT_KINDS:
        yield from ((attribute, layer.cell, attribute) for attribute in ("kernel", "recurrent_kernel"))
    else:
        yield "", layer, "pointwise_kernel" if hasattr(layer, "pointwise_kernel") else "kernel"


def _is_einsum(owner: Any) -> bool:
    return type(owner).__name__ == "EinsumDense"

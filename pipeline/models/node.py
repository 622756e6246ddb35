"""A layer in the graph of a Keras model, and whether single weights, or units, can leave it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# The layers that single weights are removed from: those that are one product of inputs and a kernel, those that have
# one kernel within them, those with several. What kernels a layer has `kernels` says.
PRODUCT_KINDS = ("Dense", "Conv1D", "Conv2D")
KERNEL_KINDS = (*PRODUCT_KINDS, "SeparableConv1D", "SeparableConv2D", "EinsumDense")
RECURRENT_KINDS = ("LSTM", "GRU", "SimpleRNN", "RNN")
ELEMENT_KINDS = (*KERNEL_KINDS, *RECURRENT_KINDS, "Bidirectional", "TimeDistributed", "MultiHeadAttention")
# Of what a layer is made of: by which attributes, and of which kinds that must be.
WITHIN = {
    **dict.fromkeys(RECURRENT_KINDS, (("cell",), ("LSTMCell", "GRUCell", "SimpleRNNCell"))),
    "Bidirectional": (("forward_layer", "backward_layer"), RECURRENT_KINDS),
    "TimeDistributed": (("layer",), KERNEL_KINDS),
    "MultiHeadAttention": (("query_dense", "key_dense", "value_dense", "output_dense"), ("EinsumDense",)),
}
# Of layers that people might expect to be pruned: why they are not.
ELEMENT_REASONS = {
    "DepthwiseConv1D": "A depthwise convolution has few weights, each of which serves a whole channel.",
    "DepthwiseConv2D": "A depthwise convolution has few weights, each of which serves a whole channel.",
    "Embedding": "An embedding's table is looked up, not multiplied; zeros in it save nothing.",
}


@dataclass(frozen=True)
class Node:
    """A layer, or a bare operation, and the names of those it is wired to.

    `source` is the symbolic tensor that enters it, None where nothing does; `calls` is how often the model calls it. A
    layer is shared when that is more than once, or when another layer holds one of its weights too, which is `tied`.
    """

    name: str
    kind: str
    layer: Any
    source: Any
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    calls: int
    is_output: bool
    shared: bool
    tied: bool
    nested: bool


def why_not_elements(node: Node, calibrated: bool = False) -> str | None:
    """A sentence saying why no single weight of the layer is removed; None when some can be.

    `calibrated`: as one product of inputs and a kernel, which the whole layer has to be.
    """
    layer = node.layer
    if node.nested:
        return "A model within the model is left whole."
    if not getattr(layer, "weights", ()):
        return f"A layer of kind {node.kind} has no weights."
    if node.kind in ELEMENT_REASONS and is_of_keras(type(layer)):
        return ELEMENT_REASONS[node.kind]
    if reason := _why_not_within(layer, PRODUCT_KINDS if calibrated else ELEMENT_KINDS):
        return reason
    return "The layer is shared: one kernel serves several places of the model." if node.shared else None


def _why_not_within(layer: Any, kinds: Sequence[str]) -> str | None:
    kind = type(layer).__name__
    if kind not in kinds or not is_of_keras(type(layer)):
        return f"In a layer of kind {kind} no kernel is known that single weights could leave."
    if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False):
        return "The kernel is quantised, or carries a low-rank adapter."
    if getattr(layer, "groups", 1) != 1:
        return f"A convolution in groups is left whole, and this one has {layer.groups}."
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return "A convolution with its channels first is left whole."
    attributes, allowed = WITHIN.get(kind, ((), ()))
    reasons = (_why_not_within(getattr(layer, attribute), allowed) for attribute in attributes)
    return next((reason for reason in reasons if reason is not None), None)


def why_not_followed(node: Node) -> str | None:
    """What keeps every unit of the layer in place, as the end of a sentence that begins with its name."""
    layer = node.layer
    if node.nested:
        return "is a model within the model"
    if not is_of_keras(type(layer)):
        return f"is a {node.kind}, which is not of Keras' own"
    if node.tied:
        return "holds a weight that another layer holds too"
    if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False):
        return "is quantised, or carries a low-rank adapter"
    return None


def is_of_keras(thing: Any) -> bool:
    """Does the class, or function, come with Keras?"""
    return str(getattr(thing, "__module__", "")).split(".")[0] == "keras"

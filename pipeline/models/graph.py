"""The layer graph of a built Keras model: the one place that looks inside Keras."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Weightless layers that treat every unit by itself: a unit that leaves before them would have left after them.
UNIT_WISE_LAYERS = (
    *("Activation", "ReLU", "LeakyReLU", "ELU", "Identity"),
    *("Dropout", "GaussianDropout", "GaussianNoise", "ActivityRegularization"),
)
UNIT_WISE_ACTIVATIONS = (
    *(
        "linear",
        "relu",
        "relu6",
        "leaky_relu",
        "elu",
        "selu",
        "celu",
        "gelu",
        "silu",
        "mish",
        "tanh",
        "exponential",
    ),
    *(
        "sigmoid",
        "hard_sigmoid",
        "log_sigmoid",
        "hard_silu",
        "hard_tanh",
        "softplus",
        "softsign",
        "squareplus",
    ),
)

# The layers that single weights are removed from; those of the first line as products of inputs and a kernel.
CALIBRATED_KINDS = ("Dense", "Conv1D", "Conv2D")
ELEMENT_KINDS = (*CALIBRATED_KINDS, "SeparableConv1D", "SeparableConv2D", "EinsumDense")
# Of layers that people might expect to be pruned: why they are not.
ELEMENT_REASONS = {
    "DepthwiseConv1D": "A depthwise convolution has few weights, each of which serves a whole channel.",
    "DepthwiseConv2D": "A depthwise convolution has few weights, each of which serves a whole channel.",
    "Embedding": "An embedding's table is looked up, not multiplied; zeros in it save nothing.",
}


@dataclass(frozen=True)
class Node:
    """A layer, or a bare operation, and the names of those it is wired to.

    `source` is the symbolic tensor that enters it, None where nothing does. A layer is shared when the model
    calls it more than once, or when another layer holds one of its weights too.
    """

    name: str
    kind: str
    layer: Any
    source: Any
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    is_output: bool
    shared: bool
    nested: bool


@dataclass(frozen=True)
class Chain:
    """Two Dense layers with nothing between them that mixes units: units of `hidden` leave with rows of `after`."""

    hidden: str
    after: str


class Graph:
    """What is wired to what in a Functional or Sequential model, in topological order.

    Raises `ValueError` for a model whose wiring Keras does not record: a subclassed one, or one not built yet.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.nodes = {node.name: node for node in _nodes(model)}

    def layers(self) -> list[Node]:
        """The nodes of the layers, in the order in which Keras lists them."""
        return [self.nodes[layer.name] for layer in self.model.layers]

    def element_layers(self, calibrated: bool = False) -> list[Node]:
        """The layers whose kernels can lose single weights, in topological order; see `why_not_elements`."""
        return [node for node in self.nodes.values() if why_not_elements(node, calibrated) is None]

    def chains(self) -> list[Chain]:
        """The pairs of Dense layers between which units can be removed, in topological order."""
        return [found for node in self.nodes.values() if isinstance(found := self.chain_from(node), Chain)]

    def chain_from(self, node: Node) -> Chain | str:
        """The chain that starts at `node`, or a sentence saying why its units have to stay."""
        if node.kind != "Dense":
            return f"Only units of Dense layers are removed, and this is a {node.kind}."
        if (reason := why_not_elements(node)) is not None:
            return reason
        hidden = node.name
        while True:
            if node.is_output:
                return "Its units are an output of the model."
            if (activation := _mixing_activation(node.layer)) is not None:
                return f"The activation {activation!r} of {node.name!r} may mix its units."
            if len(node.consumers) != 1:
                return f"The units feed {len(node.consumers)} layers after {node.name!r}."
            node = self.nodes[node.consumers[0]]
            if node.shared:
                return f"The units feed {node.name!r}, which is shared."
            if node.kind == "Dense" and why_not_elements(node) is None:
                return Chain(hidden, node.name)
            if node.kind not in UNIT_WISE_LAYERS or not _is_of_keras(type(node.layer)):
                return f"The units feed {node.name!r}, a {node.kind}, through which units are not followed."

    def inputs(
        self, name: str, samples: NDArray[Any], batch_size: int = 64
    ) -> Iterator[NDArray[np.floating]]:
        """What enters the layer `name` for the model inputs `samples`, a batch at a time.

        Raises `ValueError` for a model of several inputs.
        """
        import keras

        if len(self.model.inputs) != 1:
            raise ValueError(
                f"calibration needs a model with one input, this one has {len(self.model.inputs)}"
            )
        until = keras.Model(self.model.inputs[0], self.nodes[name].source)
        for start in range(0, len(samples), batch_size):
            entering = until(samples[start : start + batch_size], training=False)
            yield np.asarray(keras.ops.convert_to_numpy(entering), np.float32)


def why_not_elements(node: Node, calibrated: bool = False) -> str | None:
    """A sentence saying why no single weight of the layer is removed; None when some can be.

    `calibrated`: by a method that has to see the layer as a product of its inputs and its kernel.
    """
    layer = node.layer
    if node.nested:
        return "A model within the model is left whole."
    if not getattr(layer, "weights", ()):
        return f"A layer of kind {node.kind} has no weights."
    if node.kind in ELEMENT_REASONS and _is_of_keras(type(layer)):
        return ELEMENT_REASONS[node.kind]
    kinds = CALIBRATED_KINDS if calibrated else ELEMENT_KINDS
    if node.kind not in kinds or not _is_of_keras(type(layer)):
        return f"Weights are removed from Keras' own {', '.join(kinds)}, and this is a {node.kind}."
    if node.shared:
        return "The layer is shared: one kernel serves several places of the model."
    if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False):
        return "The kernel is quantised, or carries a low-rank adapter."
    if getattr(layer, "groups", 1) != 1:
        return f"A convolution in groups is left whole, and this one has {layer.groups}."
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return "A convolution with its channels first is left whole."
    if node.kind == "EinsumDense" and len(layer.kernel.shape) != 2:
        return "Its kernel has more axes than one of inputs and one of outputs."
    return None


def kernel_weights(layer: Any) -> int:
    """The nonzero weights in kernels and tables, which have two or more axes: no biases, no normalisation."""
    return sum(int(np.count_nonzero(weight)) for weight in layer.get_weights() if weight.ndim >= 2)


def copy(model: Any, weights: Mapping[str, list[NDArray[Any]]] | None = None) -> Any:
    """A copy of the model, not compiled, with its weights; its class and names are the model's.

    A Dense layer named in `weights` gets those, kernel first, and as many units as the kernel has columns.
    """
    import keras

    weights = weights or {}
    cut = {id(layer): weights[layer.name][0].shape[-1] for layer in model.layers if layer.name in weights}

    def clone(layer: Any) -> Any:
        config = layer.get_config()
        return type(layer).from_config(config | {"units": cut[id(layer)]} if id(layer) in cut else config)

    entrances = (
        None if isinstance(model, keras.Sequential) else keras.tree.map_structure(_entrance, model.input)
    )
    compiled, model.compiled = model.compiled, False  # what the model was trained with need not be at hand
    try:
        twin = keras.models.clone_model(model, entrances, clone, recursive=True)
    finally:
        model.compiled = compiled
    for layer in model.layers:
        twin.get_layer(layer.name).set_weights(weights.get(layer.name) or layer.get_weights())
    return twin


def _entrance(tensor: Any) -> Any:
    """A new input like `tensor`, with the name of its layer, which Keras would replace by the tensor's."""
    import keras

    return keras.Input(
        batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor._keras_history.operation.name
    )


def _nodes(model: Any) -> Iterator[Node]:
    import keras

    function = getattr(model, "_functional", model)
    if not hasattr(function, "_nodes_by_depth"):
        raise ValueError(
            f"expected a built Functional or Sequential model, received {type(model).__name__!r}, whose layer graph "
            "Keras does not know; rebuild it with keras.Model(inputs, outputs), or give a Sequential its Input"
        )
    depths = sorted(function._nodes_by_depth, reverse=True)
    calls: dict[Any, list[Any]] = {}
    for call in (call for depth in depths for call in function._nodes_by_depth[depth]):
        calls.setdefault(call.operation, []).append(call)
    producers = {
        layer: _names(parent for call in own for parent in call.parent_nodes) for layer, own in calls.items()
    }
    holders = Counter(id(weight) for layer in calls for weight in getattr(layer, "weights", ()))
    outputs = {tensor._keras_history.operation for tensor in function.outputs}
    for layer, own in calls.items():
        yield Node(
            name=layer.name,
            kind=type(layer).__name__,
            layer=layer,
            source=next(iter(own[0].input_tensors), None),
            producers=producers[layer],
            consumers=tuple(other.name for other in calls for name in producers[other] if name == layer.name),
            is_output=layer in outputs,
            shared=len(own) > 1 or any(holders[id(weight)] > 1 for weight in getattr(layer, "weights", ())),
            nested=isinstance(layer, keras.Model),
        )


def _names(calls: Iterator[Any]) -> tuple[str, ...]:
    return tuple(call.operation.name for call in calls)


def _mixing_activation(layer: Any) -> str | None:
    activation = getattr(layer, "activation", None)
    name = getattr(activation, "__name__", type(activation).__name__)
    unit_wise = activation is None or (name in UNIT_WISE_ACTIVATIONS and _is_of_keras(activation))
    return None if unit_wise else name


def _is_of_keras(thing: Any) -> bool:
    return str(getattr(thing, "__module__", "")).split(".")[0] == "keras"

"""The layer graph of a built Keras model: with `node`, the one place that looks inside Keras."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.models.node import Node as Node
from pipeline.models.node import is_of_keras
from pipeline.models.node import why_not_elements as why_not_elements
from pipeline.models.node import why_not_followed as why_not_followed
from pipeline.models.ports import entering
from pipeline.models.samples import Samples


@dataclass(frozen=True)
class Tensor:
    """An edge of the graph; `shape` begins with the batch, None where a size is not known."""

    key: int
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Call:
    """One call of the node `node`: a shared layer has several.

    `arguments` are by the name of the parameter, a `Tensor` wherever the model passes one, within lists too.
    """

    node: str
    arguments: Mapping[str, Any]
    outputs: tuple[Tensor, ...]


class Graph:
    """What is wired to what in a Functional or Sequential model, in topological order.

    `nodes` are by name, `calls` are theirs, `outputs` are the model's. Raises `ValueError` for a model whose wiring
    Keras does not record: a subclassed one, or one not built yet.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.nodes = {node.name: node for node in _nodes(model)}
        self.calls, self.outputs = _calls(model)

    def layers(self) -> list[Node]:
        """The nodes of the layers, in the order in which Keras lists them."""
        return [self.nodes[layer.name] for layer in self.model.layers]

    def element_layers(self, calibrated: bool = False) -> list[Node]:
        """The layers whose kernels can lose single weights, in topological order; see `why_not_elements`."""
        return [node for node in self.nodes.values() if why_not_elements(node, calibrated) is None]

    def inputs(self, name: str, samples: Samples, batch_size: int = 64) -> Iterator[NDArray[np.floating]]:
        """What enters the layer `name` for the model inputs `samples`, a batch at a time.

        Raises `ValueError` where the samples are not of the model's inputs.
        """
        import keras

        for found in self.run(self.nodes[name].source, samples, batch_size):
            yield np.asarray(keras.ops.convert_to_numpy(found), np.float32)

    def run(
        self,
        tensors: Any,
        samples: Samples,
        batch_size: int = 64,
        during: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> Iterator[Any]:
        """What the symbolic `tensors` of the model are for the inputs `samples`, a batch at a time.

        Each batch is computed within `during()`. Raises `ValueError` where the names of the samples are others.
        """
        import keras

        until = keras.Model(self.model.inputs, tensors)
        for start in range(0, len(samples), batch_size):
            with during():
                found = until(entering(until, samples[start : start + batch_size]), training=False)
            yield found


def settings(layer: Any) -> dict[str, Any]:
    """The options of a layer of Keras' own, or of an operation.

    Activations are named: by Keras' name for those of Keras, else by their module's too. A layer within it, which
    a wrapper has, is {'class_name': ..., 'config': its settings}.
    """
    try:
        found = dict(layer.get_config())
    except NotImplementedError:  # an operation that Keras cannot write down
        return {}
    for key in ("activation", "recurrent_activation"):
        if key in found:
            found[key] = _name_of_activation(getattr(layer, key))
    for key, attribute in (
        ("layer", "forward_layer"),
        ("layer", "layer"),
        ("backward_layer", "backward_layer"),
    ):
        if key in found and (inner := getattr(layer, attribute, None)) is not None:
            kind = type(inner).__name__ if is_of_keras(type(inner)) else ""
            found[key] = {"class_name": kind, "config": settings(inner)}
    return found


def kernel_weights(layer: Any) -> int:
    """The nonzero weights in kernels and tables, which have two or more axes: no biases, no normalisation."""
    return sum(int(np.count_nonzero(weight)) for weight in layer.get_weights() if weight.ndim >= 2)


def copy(
    model: Any,
    weights: Mapping[str, list[NDArray[Any]]] | None = None,
    options: Mapping[str, Mapping[tuple[str, ...], Any]] | None = None,
) -> Any:
    """A copy of the model, not compiled, with its weights; its class and names are the model's.

    A layer named in `weights` gets those. One named in `options` is made with the values there, each by the path of
    its keys in the layer's config: {('units',): 3}.
    """
    import keras

    weights, options = weights or {}, options or {}
    remade = {
        id(layer): options.get(layer.name, {}) for layer in model.layers if layer.name in {*weights, *options}
    }

    def clone(layer: Any) -> Any:
        config = layer.get_config()
        if id(layer) in remade:
            config = _altered(config, remade[id(layer)])
        return type(layer).from_config(config)

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


def _altered(config: Mapping[str, Any], values: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """The config with `values` by their paths; without the shapes for which a wrapped layer would build itself."""
    altered = {
        key: _altered(value, {path[1:]: new for path, new in values.items() if path[0] == key})
        if isinstance(value, dict)
        else value
        for key, value in config.items()
        if key != "build_config"
    }
    return altered | {path[0]: new for path, new in values.items() if len(path) == 1}


def _entrance(tensor: Any) -> Any:
    """A new input like `tensor`, with the name of its layer, which Keras would replace by the tensor's."""
    import keras

    return keras.Input(
        batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor._keras_history.operation.name
    )


def _nodes(model: Any) -> Iterator[Node]:
    import keras

    recorded, outputs = _recorded(model)
    calls: dict[Any, list[Any]] = {}
    for call in recorded:
        calls.setdefault(call.operation, []).append(call)
    producers = {
        layer: _names(parent for call in own for parent in call.parent_nodes) for layer, own in calls.items()
    }
    holders = Counter(id(weight) for layer in calls for weight in getattr(layer, "weights", ()))
    last = {tensor._keras_history.operation for tensor in outputs}
    for layer, own in calls.items():
        tied = any(holders[id(weight)] > 1 for weight in getattr(layer, "weights", ()))
        yield Node(
            name=layer.name,
            kind=type(layer).__name__,
            layer=layer,
            source=next(iter(own[0].input_tensors), None),
            producers=producers[layer],
            consumers=tuple(other.name for other in calls for name in producers[other] if name == layer.name),
            calls=len(own),
            is_output=layer in last,
            shared=len(own) > 1 or tied,
            tied=tied,
            nested=isinstance(layer, keras.Model),
        )


def _calls(model: Any) -> tuple[list[Call], tuple[Tensor, ...]]:
    import keras

    recorded, outputs = _recorded(model)
    known: dict[int, Tensor] = {}

    def edge(tensor: Any) -> Tensor:
        return known.setdefault(id(tensor), Tensor(len(known), tuple(tensor.shape)))

    def passed(value: Any) -> Any:
        if isinstance(value, keras.KerasTensor):
            return edge(value)
        if isinstance(value, dict):
            return {key: passed(each) for key, each in value.items()}
        return [passed(each) for each in value] if isinstance(value, list | tuple) else value

    calls = []
    for call in recorded:
        given = inspect.signature(call.operation.call).bind(*call.arguments.args, **call.arguments.kwargs)
        made = tuple(edge(tensor) for tensor in call.outputs)
        calls.append(Call(call.operation.name, passed(given.arguments), made))
    return calls, tuple(edge(tensor) for tensor in outputs)


def _recorded(model: Any) -> tuple[list[Any], list[Any]]:
    """Keras' own records of the calls, in topological order, and the model's outputs."""
    function = getattr(model, "_functional", model)
    if not hasattr(function, "_nodes_by_depth"):
        raise ValueError(
            f"expected a built Functional or Sequential model, received {type(model).__name__!r}, whose layer graph "
            "Keras does not know; rebuild it with keras.Model(inputs, outputs), or give a Sequential its Input"
        )
    depths = sorted(function._nodes_by_depth, reverse=True)
    return [call for depth in depths for call in function._nodes_by_depth[depth]], function.outputs


def _names(calls: Iterator[Any]) -> tuple[str, ...]:
    return tuple(call.operation.name for call in calls)


def _name_of_activation(activation: Any) -> str:
    """A layer used as an activation goes by its class."""
    if activation is None:
        return "linear"
    named = activation if hasattr(activation, "__name__") else type(activation)
    return str(named.__name__) if is_of_keras(named) else f"{named.__module__}.{named.__name__}"

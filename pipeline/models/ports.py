"""The ports of a built Keras model, its inputs and outputs by name, and samples going in and out through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pipeline.models.samples import Samples, in_order, of_names


@dataclass(frozen=True)
class Port:
    """An input or output: the name of the layer there, the shape of a sample, its type as numpy names it.

    A size that is open is None. `activation` is the name of that which an output comes out of, passed on perhaps by
    layers that only reshape it; where the layer has none, its class in lower case.
    """

    name: str
    shape: tuple[Any, ...]
    dtype: str
    activation: str


def input_ports(model: Any) -> list[Port]:
    """In the order of `model.inputs`."""
    return [_port(tensor) for tensor in model.inputs]


def output_ports(model: Any) -> list[Port]:
    """In the order of `model.outputs`."""
    return [_port(tensor) for tensor in model.outputs]


def input_names(model: Any) -> list[str]:
    """In the order of `model.inputs`."""
    return [port.name for port in input_ports(model)]


def output_names(model: Any) -> list[str]:
    """In the order of `model.outputs`."""
    return [port.name for port in output_ports(model)]


def entering(model: Any, samples: Samples) -> Any:
    """Samples in the structure in which `model` takes its inputs. Raises `ValueError` where their names are others."""
    return as_inputs(model, in_order(samples, input_names(model)))


def as_inputs(model: Any, values: Sequence[Any]) -> Any:
    """Something for each input, in the order of `model.inputs`, in the structure in which `model` takes them."""
    return _structured(model, "input", values)


def leaving(model: Any, samples: Samples) -> Any:
    """Targets in the structure in which `model` gives its outputs. Raises `ValueError` where their names are others."""
    return as_outputs(model, in_order(samples, output_names(model)))


def as_outputs(model: Any, values: Sequence[Any]) -> Any:
    """Something for each output, in the order of `model.outputs`, in the structure in which `model` gives them."""
    return _structured(model, "output", values)


def answers(model: Any, samples: Samples) -> Samples:
    """The model's outputs (n, ...) for samples of its inputs; by name where it has several."""
    import keras

    found = keras.tree.flatten(model.predict(entering(model, samples), verbose=0))
    return of_names([np.asarray(output) for output in found], output_names(model))


def _structured(model: Any, side: Literal["input", "output"], values: Sequence[Any]) -> Any:
    import keras

    # A Sequential has neither attribute before it is called, and takes and gives one tensor.
    like = getattr(model, f"{side}s")[0] if isinstance(model, keras.Sequential) else getattr(model, side)
    return keras.tree.pack_sequence_as(like, list(values))


def _port(tensor: Any) -> Port:
    maker = _maker(tensor)
    activation = getattr(maker, "activation", None)
    named = getattr(activation, "__name__", "") if activation else type(maker).__name__.lower()
    return Port(tensor._keras_history.operation.name, tuple(tensor.shape[1:]), str(tensor.dtype), named)


def _maker(tensor: Any) -> Any:
    """The operation that the tensor's numbers come from, side by side as there."""
    history = tensor._keras_history
    passing = type(history.operation).__name__ in ("Identity", "Reshape", "Flatten")
    read = history.operation._inbound_nodes[history.node_index].input_tensors if passing else []
    return _maker(read[0]) if read and read[0].shape[-1] == tensor.shape[-1] else history.operation

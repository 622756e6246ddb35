"""A model that Keras 2 wrote, rebuilt in Keras 3 from its configuration and its weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.models import keras2_operations
from pipeline.models.keras2_layers import HARD_SIGMOID_SCALE, Config, Refused, make_layer
from pipeline.models.quiet import keras_module

FUNCTIONAL = ("Functional", "Model")
# Names that a weight has in both, of weights whose shapes alone would not tell them apart.
SAME_NAMES = ("gamma", "beta", "moving_mean", "moving_variance", "mean", "variance", "kernel", "bias")
GATES = {"LSTMCell": (0, 1, 3), "GRUCell": (0, 1)}  # those that `recurrent_activation` opens, of 4 and of 3


@dataclass(frozen=True)
class Written:
    """What a file of Keras 2 holds.

    `weights` are by the name of a top layer, each (its name, or nothing, and its value); `order` says in which
    order the weights of a Keras 3 layer correspond to them.
    """

    config: Config
    weights: Mapping[str, list[tuple[str, np.ndarray]]]
    order: Callable[[Any], list[Any]]


def parse(text: str | bytes) -> Any:
    """A configuration as Keras 2 wrote it in JSON; its tuples and shapes as lists."""

    def plain(value: dict[str, Any]) -> Any:
        kind = value.get("class_name")
        if kind in ("__tuple__", "TensorShape") and "items" in value:
            return value["items"]
        return ... if kind == "__ellipsis__" else value

    return json.loads(text, object_hook=plain)


def rebuild(written: Written, where: str) -> Any:
    """The Keras 3 model, weights and all. Raises `UserError` with a line for all that cannot be rebuilt."""
    problems: list[str] = []
    try:
        model = _model(written.config["class_name"], written.config["config"], problems)
        if not problems:
            _assign(model, written)
            _rescale_hard_sigmoids(model)
    except Refused as error:
        problems.append(str(error))
    except Exception as error:
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        raise UserError(
            f"{where}: written by Keras 2, cannot be rebuilt: {type(error).__name__}: {first.strip()[:300]}"
        ) from error
    if problems:
        raise UserError(*(f"{where}: written by Keras 2: {problem}" for problem in problems))
    return model


def _model(class_name: str, config: Any, problems: list[str]) -> Any:
    if class_name == "Sequential":
        return _sequential(config, problems)
    if class_name in FUNCTIONAL and "layers" in config:
        return _functional(config, problems)
    raise Refused(
        f"the model is a {class_name}, a class of its own, whose wiring the file does not hold; build it in"
        " a function, file.py:function, and load its weights there"
    )


def _layer(each: Config, problems: list[str]) -> list[Any]:
    """The layers, one after the other, that compute what this one did; what cannot be is among the problems."""
    class_name, config = each["class_name"], each["config"]
    try:
        if class_name in ("TFOpLambda", "SlicingOpLambda"):
            return [keras2_operations.of_configuration(config)]
        if class_name in (*FUNCTIONAL, "Sequential"):
            return [_model(class_name, config, problems)]
        made = make_layer(class_name, config)
    except Refused as error:
        problems.append(str(error))
        return []
    if class_name == "Activation" and config.get("activation") == "hard_sigmoid":
        return [keras_module().layers.Rescaling(HARD_SIGMOID_SCALE, name=f"{made.name}_scale"), made]
    return [made]


def _sequential(config: Any, problems: list[str]) -> Any:
    keras = keras_module()
    each = config["layers"] if isinstance(config, Mapping) else config
    shape = each[0]["config"].get("batch_input_shape") if each else None
    if shape is None and isinstance(config, Mapping):
        shape = config.get("build_input_shape")
    layers = [layer for one in each for layer in _layer(one, problems)]
    if problems:
        return None
    if shape is not None and not isinstance(layers[0], keras.layers.InputLayer):
        dtype = "int32" if isinstance(layers[0], keras.layers.Embedding) else None
        layers.insert(0, keras.layers.InputLayer(batch_shape=tuple(shape), dtype=dtype))
    return keras.Sequential(layers, name=config.get("name") if isinstance(config, Mapping) else None)


def _functional(config: Config, problems: list[str]) -> Any:
    keras = keras_module()
    layers = {each["name"]: _layer(each, problems) for each in config["layers"]}
    if problems:
        return None
    # A model within the model counts its own first call as 0, so calls from outside begin at 1.
    first = {name: int(isinstance(made[0], keras.Model)) for name, made in layers.items()}
    tensors: dict[tuple[str, int], list[Any]] = {}
    for name, made in layers.items():
        if isinstance(made[0], keras.layers.InputLayer):
            tensors[name, 0] = [made[0].output]
    waiting = [
        (each["name"], first[each["name"]] + index, node)
        for each in config["layers"]
        for index, node in enumerate(each["inbound_nodes"])
    ]
    while waiting:
        left = [
            call
            for call in waiting
            if not _call(layers[call[0]], call[2], tensors, (call[0], call[1]), layers)
        ]
        if len(left) == len(waiting):
            raise Refused(f"the calls of {sorted({name for name, _, _ in left})} have no beginning")
        waiting = left
    inputs, outputs = (_resolved(config[key], tensors, layers) for key in ("input_layers", "output_layers"))
    model = keras.Model(_alone(inputs), _alone(outputs), name=config.get("name"))
    if not config.get("trainable", True):
        model.trainable = False
    return model


def _call(
    made: list[Any],
    node: Any,
    tensors: dict[tuple[str, int], list[Any]],
    place: tuple[str, int],
    layers: Mapping[str, Any],
) -> bool:
    """Make one call of a layer, unless what it needs has not been computed yet."""
    try:
        entering = _alone(_resolved(node, tensors, layers))
        options = {
            key: _resolved(value, tensors, layers)
            for key, value in _keywords(node, layers).items()
            if value is not None
        }
    except KeyError:
        return False
    if isinstance(entering, list) and hasattr(made[0], "return_sequences"):
        entering, options = entering[0], options | {"initial_state": entering[1:]}
    for layer in made:
        entering, options = layer(entering, **options), {}
    tensors[place] = list(entering) if isinstance(entering, (list, tuple)) else [entering]
    return True


def _is_reference(data: Any, layers: Mapping[str, Any]) -> bool:
    """[layer, call, output] or [layer, call, output, keywords]; or a constant in the place of a layer's output."""
    if not isinstance(data, list) or len(data) not in (3, 4) or not isinstance(data[0], str):
        return False
    return data[0] == "_CONSTANT_VALUE" or (data[0] in layers and all(type(n) is int for n in data[1:3]))


def _resolved(data: Any, tensors: Mapping[tuple[str, int], list[Any]], layers: Mapping[str, Any]) -> Any:
    """`data` with tensors in the place of references; raises `KeyError` where one has not been computed."""
    if _is_reference(data, layers):
        return data[2] if data[0] == "_CONSTANT_VALUE" else tensors[data[0], data[1]][data[2]]
    if isinstance(data, list):
        return [_resolved(each, tensors, layers) for each in data]
    if isinstance(data, Mapping):
        return {key: _resolved(each, tensors, layers) for key, each in data.items()}
    return data


def _keywords(node: Any, layers: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the call was given by name: it stands in the reference to its first tensor."""
    while not _is_reference(node, layers):
        node = next(iter(node.values())) if isinstance(node, Mapping) else node[0]
    return node[3] if len(node) == 4 else {}


def _alone(found: Any) -> Any:
    return found[0] if isinstance(found, list) and len(found) == 1 else found


def _assign(model: Any, written: Written) -> None:
    """Give each layer its weights; raises `Refused` where their names, number or shapes are not the layer's."""
    for layer in model.layers:
        values, weights = written.weights.get(layer.name, []), written.order(layer)
        if len(values) != len(weights):
            raise Refused(
                f"layer {layer.name!r}: expected {len(weights)} weights, the file holds {len(values)}"
            )
        for weight, (name, value) in zip(weights, values, strict=True):
            last = name.rpartition("/")[2].partition(":")[0]
            shapes, names = (tuple(weight.shape), value.shape), (weight.name, last)
            if shapes[0] != shapes[1] or (names[0] != names[1] and set(names) <= set(SAME_NAMES)):
                raise Refused(
                    f"layer {layer.name!r}: expected {names[0]} of shape {shapes[0]}, the file holds"
                    f" {names[1] or 'a weight'} of shape {shapes[1]}"
                )
            weight.assign(value)
        for part in layer._flatten_layers():
            if hasattr(part, "finalize_state"):
                part.finalize_state()


def _rescale_hard_sigmoids(model: Any) -> None:
    """Scale what leads into each hard sigmoid, so that Keras 3's gives what Keras 2's gave."""
    for layer in model._flatten_layers():
        if _is_hard_sigmoid(getattr(layer, "recurrent_activation", None)) and hasattr(
            layer, "recurrent_kernel"
        ):
            for weight in layer.weights:
                _scale_gates(weight, layer)
        elif _is_hard_sigmoid(getattr(layer, "activation", None)) and layer.weights:
            for weight in layer.weights:
                if weight.name != "depthwise_kernel":
                    weight.assign(weight.numpy() * HARD_SIGMOID_SCALE)


def _scale_gates(weight: Any, cell: Any) -> None:
    gates = GATES[type(cell).__name__]
    value = weight.numpy().copy()
    for gate in gates:
        value[..., gate * cell.units : (gate + 1) * cell.units] *= HARD_SIGMOID_SCALE
    weight.assign(value)


def _is_hard_sigmoid(activation: Any) -> bool:
    return getattr(activation, "__name__", "") == "hard_sigmoid"


def trainable_first(layer: Any) -> list[Any]:
    """The order of an .h5 file."""
    return [*layer.trainable_weights, *layer.non_trainable_weights]


def layer_by_layer(layer: Any) -> list[Any]:
    """The order of a SavedModel: also within a model, one layer after the other."""
    seen: dict[int, Any] = {}
    for part in _parts(layer):
        seen |= {id(weight): weight for weight in trainable_first(part) if id(weight) not in seen}
    return list(seen.values())


def _parts(layer: Any) -> Iterator[Any]:
    if not isinstance(layer, keras_module().Model):
        yield layer
        return
    for inner in layer.layers:
        yield from _parts(inner)

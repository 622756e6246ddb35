"""A layer as Keras 2 wrote it down, made as the layer of Keras 3 that computes the same."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from pipeline.models.quiet import keras_module

Config = Mapping[str, Any]

# Keras 2: clip(0.2 x + 0.5, 0, 1). Keras 3: clip(x / 6 + 0.5, 0, 1), the same of an x that is 1.2 times as large.
HARD_SIGMOID_SCALE = 1.2
RENAMED = {
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "LayerNormalizationV1": "LayerNormalization",
    "SyncBatchNormalization": "BatchNormalization",
    "LSTMV2": "LSTM",
    "GRUV2": "GRU",
    "ThresholdedReLU": "ReLU",
}
RENAMED_OPTIONS = {("LeakyReLU", "alpha"): "negative_slope", ("ThresholdedReLU", "theta"): "threshold"}
RENAMED_ACTIVATIONS = {
    "softmax_v2": "softmax",
    "relu_v2": "relu",
    "elu_v2": "elu",
    "leaky_relu_v2": "leaky_relu",
}
# Options that Keras 3 has no more: with these values they asked for nothing that it does not do anyway.
WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "causal": (False,),
    "groups": (1,),
    "invert": (False,),
    "keepdims": (False,),
    "ragged": (False,),
    "renorm": (False,),
    "softmax_robust_masking": (False,),
    "sparse": (False,),
    "time_major": (False,),
}
WITHOUT_MEANING = (
    *("batch_input_shape", "force_generator", "fused", "implementation", "input_dim_", "input_length"),
    *("key_shape", "query_shape", "renorm_clipping", "renorm_momentum", "rng_type", "value_shape"),
)


class Refused(Exception):
    """One sentence: what of the Keras 2 model Keras 3 cannot do."""


def make_layer(class_name: str, config: Config) -> Any:
    """The Keras 3 layer of a Keras 2 class name and configuration, not built.

    Initialisers are left out: the weights come from the file. Raises `Refused` for a layer, or an option of it,
    without a counterpart.
    """
    layer_class = _layer_class(class_name, config)
    if class_name == "InputLayer":
        _check_without_effect("InputLayer", config, ("ragged", "sparse"))
        return layer_class(
            batch_shape=config["batch_input_shape"], dtype=config.get("dtype"), name=config.get("name")
        )
    known = _options_of(layer_class)
    options: dict[str, Any] = {}
    for key, value in config.items():
        name = RENAMED_OPTIONS.get((class_name, key), key)
        if key in WITHOUT_MEANING or key.endswith("_initializer") or value is None:
            continue
        if name in known:
            options[name] = _value(key, value, class_name, config)
        else:
            _check_without_effect(class_name, config, (key,))
    if options.get("activation") == "hard_sigmoid" and "recurrent_activation" in options:
        raise Refused(f"{_named(class_name, config)}: hard_sigmoid as its activation is another in Keras 3")
    if layer_class.__name__ == "MultiHeadAttention" and "attention_axes" in options:
        options["attention_axes"] = tuple(options["attention_axes"])
    try:
        return layer_class(**options)
    except Refused:
        raise
    except Exception as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise Refused(f"{_named(class_name, config)}: {first.strip()[:300]}") from error


def _layer_class(class_name: str, config: Config) -> Any:
    keras = keras_module()
    if class_name == "Lambda":
        raise Refused(
            f"{_named(class_name, config)}: it holds Python byte code, which is never run from a file;"
            " replace it by a layer"
        )
    if class_name.startswith("CuDNN"):
        raise Refused(f"{_named(class_name, config)}: Keras 3 has no layers for one kind of hardware")
    found = getattr(keras.layers, RENAMED.get(class_name, class_name), None)
    found = found or keras.saving.get_registered_object(class_name)
    if not (inspect.isclass(found) and issubclass(found, keras.layers.Layer)):
        raise Refused(f"{_named(class_name, config)}: a layer that Keras {keras.__version__} does not know")
    return found


def _options_of(layer_class: Any) -> set[str]:
    """What the layer's constructor takes, and those of its bases where it passes on what it does not name."""
    names: set[str] = set()
    for base in layer_class.__mro__:
        if "__init__" not in vars(base) or base is object:
            continue
        parameters = inspect.signature(base.__init__).parameters.values()
        names |= {each.name for each in parameters if each.kind is not each.VAR_KEYWORD}
        if not any(each.kind is each.VAR_KEYWORD for each in parameters):
            break
    return names - {"self", "args"}


def _value(key: str, value: Any, class_name: str, config: Config) -> Any:
    if key == "dtype":
        return value["config"]["name"] if isinstance(value, Mapping) else value
    if key == "axis" and "BatchNormalization" in class_name and isinstance(value, list):
        return value[0]
    if key in ("layer", "backward_layer", "cell"):
        return make_layer(value["class_name"], value["config"])
    if key == "cells":
        return [make_layer(cell["class_name"], cell["config"]) for cell in value]
    if key.endswith("activation"):
        return _activation(value, _named(class_name, config))
    if key.endswith(("_regularizer", "_constraint")):
        return {"class_name": value["class_name"], "config": value["config"]}
    return value


def _activation(value: Any, where: str) -> str:
    name = value.get("class_name", "") if isinstance(value, Mapping) else str(value)
    if isinstance(value, Mapping) and name == "function":
        name = str(value.get("config"))
    name = RENAMED_ACTIVATIONS.get(name, name)
    try:
        keras_module().activations.get(name)
    except ValueError:
        raise Refused(f"{where}: the activation {name!r}, which Keras 3 does not know") from None
    return name


def _check_without_effect(class_name: str, config: Config, keys: tuple[str, ...]) -> None:
    for key in keys:
        value = config.get(key)
        if value is not None and value not in WITHOUT_EFFECT.get(key, ()):
            raise Refused(f"{_named(class_name, config)}: the option {key}={value!r} is gone from Keras 3")


def _named(class_name: str, config: Config) -> str:
    return f"layer {config.get('name', '?')!r} ({class_name})"

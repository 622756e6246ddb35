"""TensorFlow functions that a Keras 2 model called between its layers, as functions of `keras.ops`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.models.keras2_layers import Refused
from pipeline.models.quiet import keras_module

GET_ITEM = "__operators__.getitem"
REDUCTION = {"axis": "axis", "keepdims": "keepdims"}
BINARY = {"y": "x2"}
# TensorFlow's name: the name in `keras.ops`, and its names for what is given beyond the first argument.
OPERATIONS: dict[str, tuple[str, dict[str, str]]] = {
    "__operators__.add": ("add", BINARY),
    "__operators__.neg": ("negative", {}),
    "cast": ("cast", {"dtype": "dtype"}),
    "clip_by_value": ("clip", {"clip_value_min": "x_min", "clip_value_max": "x_max"}),
    "compat.v1.transpose": ("transpose", {"perm": "axes"}),
    "concat": ("concatenate", {"axis": "axis"}),
    "expand_dims": ("expand_dims", {"axis": "axis"}),
    "identity": ("copy", {}),
    "linalg.matmul": ("matmul", {"b": "x2"}),
    "math.abs": ("abs", {}),
    "math.add": ("add", BINARY),
    "math.divide": ("true_divide", BINARY),
    "math.exp": ("exp", {}),
    "math.log": ("log", {}),
    "math.maximum": ("maximum", BINARY),
    "math.minimum": ("minimum", BINARY),
    "math.multiply": ("multiply", BINARY),
    "math.pow": ("power", BINARY),
    "math.reduce_max": ("max", REDUCTION),
    "math.reduce_mean": ("mean", REDUCTION),
    "math.reduce_min": ("min", REDUCTION),
    "math.reduce_sum": ("sum", REDUCTION),
    "math.rsqrt": ("rsqrt", {}),
    "math.sigmoid": ("sigmoid", {}),
    "math.sqrt": ("sqrt", {}),
    "math.square": ("square", {}),
    "math.subtract": ("subtract", BINARY),
    "math.tanh": ("tanh", {}),
    "math.truediv": ("true_divide", BINARY),
    "nn.elu": ("elu", {}),
    "nn.leaky_relu": ("leaky_relu", {"alpha": "negative_slope"}),
    "nn.relu": ("relu", {}),
    "nn.relu6": ("relu6", {}),
    "nn.sigmoid": ("sigmoid", {}),
    "nn.silu": ("silu", {}),
    "nn.softmax": ("softmax", {"axis": "axis"}),
    "nn.swish": ("silu", {}),
    "nn.tanh": ("tanh", {}),
    "reshape": ("reshape", {"shape": "newshape"}),
    "squeeze": ("squeeze", {"axis": "axis"}),
    "stack": ("stack", {"axis": "axis"}),
    "transpose": ("transpose", {"perm": "axes"}),
}
OPERATIONS |= {
    name.removeprefix("math."): entry for name, entry in OPERATIONS.items() if name.startswith("math.")
}


class Operation:
    """A function of TensorFlow by the name that Keras 2 gave it, such as `math.multiply`.

    Raises `Refused` for one without a counterpart here.
    """

    def __init__(self, function: str, name: str) -> None:
        if function != GET_ITEM and function not in OPERATIONS:
            raise Refused(
                f"layer {name!r} (tf.{function}): a function of TensorFlow without a counterpart here"
            )
        self.function, self.name, self.calls = function, name, 0

    def __call__(self, first: Any, **given: Any) -> Any:
        """Apply it to tensors or constants, beyond the first by the names that TensorFlow has for them."""
        result = self._apply(first, given)
        self.calls += 1
        # Keras would number it, and so take a name that a layer of the model may have.
        suffix = f"_{self.calls}" if self.calls > 1 else ""
        result._keras_history.operation.name = f"{self.name}{suffix}"
        return result

    def _apply(self, first: Any, given: Mapping[str, Any]) -> Any:
        if self.function == GET_ITEM:
            return first[_slices(given["slice_spec"])]
        called, names = OPERATIONS[self.function]
        options: dict[str, Any] = {}
        for key, value in given.items():
            if key in names:
                options[names[key]] = value
            elif value not in (None, False) and key != "name":
                raise Refused(
                    f"layer {self.name!r} (tf.{self.function}): its option {key} without a counterpart here"
                )
        second = (options.pop("x2"),) if "x2" in options else ()
        return getattr(keras_module().ops, called)(first, *second, **options)


def _slices(spec: Any) -> Any:
    """What stood in the brackets: numbers, and slices written as their three numbers."""
    if isinstance(spec, list):
        return tuple(_slices(each) for each in spec)
    return slice(spec["start"], spec["stop"], spec["step"]) if isinstance(spec, Mapping) else spec


def of_configuration(config: Mapping[str, Any]) -> Operation:
    """The operation of a TFOpLambda's configuration; raises `Refused`."""
    return Operation(str(config["function"]), str(config["name"]))

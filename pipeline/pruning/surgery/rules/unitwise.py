"""Layers that treat every unit by itself: a unit that leaves before them would have left after them."""

from __future__ import annotations

from typing import Any

from pipeline.pruning.surgery.flow import NotFollowedError, Rule, Site, tensors
from pipeline.pruning.surgery.labels import Labels

ACTIVATIONS = (
    *("linear", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "tanh"),
    *("exponential", "sigmoid", "hard_sigmoid", "log_sigmoid", "hard_silu", "hard_tanh", "softplus"),
    *("softsign", "squareplus", "sparse_plus", "sparse_sigmoid", "soft_shrink", "hard_shrink"),
    *("tanh_shrink", "threshold", "ReLU", "LeakyReLU", "ELU"),
)
LAYERS = (
    *("Activation", "ReLU", "LeakyReLU", "ELU", "Identity", "Rescaling", "ActivityRegularization"),
    *("Dropout", "GaussianDropout", "GaussianNoise", "AlphaDropout"),
    *("SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"),
)
# Bare operations, such as keras.ops.relu.
OPERATIONS = (
    *("Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Celu", "Gelu", "Silu", "Tanh", "Exp", "Sigmoid"),
    *("HardSigmoid", "LogSigmoid", "HardSilu", "Softplus", "Softsign"),
    *("Abs", "Absolute", "Negative", "Square", "Sqrt"),
)


def pin_mixed(site: Site, units: Labels, key: str = "activation") -> None:
    """Pin the layer's own units under an activation, such as softmax, that is not known to be unit-wise."""
    if (reason := _mixing(site, key)) is not None:
        site.flow.sets.pin(units, reason)


def check_activation(site: Site) -> None:
    """Raise `NotFollowedError` for an activation that is not known to be unit-wise, where units pass through."""
    if (reason := _mixing(site, "activation")) is not None:
        raise NotFollowedError(reason)


def pass_on(site: Site) -> None:
    """Nothing of the layer belongs to single units."""
    check_activation(site)
    _, layout = site.entering()
    shape = site.config.get("noise_shape")
    if not _only_numbers(site) or (shape is not None and shape[layout.axis] not in (None, 1)):
        raise site.not_followed()
    if any(isinstance(site.config.get(key), list | tuple | dict) for key in ("scale", "offset")):
        raise site.not_followed()
    site.give(layout.labels, layout.axis)


def batch_normalization(site: Site) -> None:
    """Scale, shift, mean and variance leave with their unit."""
    tensor, layout = site.entering("inputs")
    axis = site.config["axis"]
    (axis,) = axis if isinstance(axis, list | tuple) else (axis,)
    if axis % len(tensor.shape) != layout.axis:
        raise NotFollowedError(f"{site.name!r} works along another axis than that of the units.")
    for weight in range(len(site.shapes)):
        site.hold("carries", weight, 0, layout.labels)
    site.give(layout.labels, layout.axis)


def prelu(site: Site) -> None:
    """The slopes, of the shape of a sample but for the axes over which they are shared."""
    _, layout = site.entering()
    if site.shapes[0][layout.axis - 1] != 1 or len(layout.labels) == 1:
        site.hold("carries", 0, layout.axis - 1, layout.labels)
    site.give(layout.labels, layout.axis)


def normalization_over_units(site: Site) -> None:
    """A mean over the units changes when one of them leaves."""
    raise NotFollowedError(f"{site.name!r}, a {site.kind}, takes its statistics over the units.")


def _mixing(site: Site, key: str) -> str | None:
    activation = site.config.get(key, "linear")
    return (
        None
        if activation in ACTIVATIONS
        else f"The activation {activation!r} of {site.name!r} may mix its units."
    )


def _only_numbers(site: Site) -> bool:
    """Is all that the call is given, but for tensors, a number or an option?"""
    arguments: Any = [value for value in site.call.arguments.values() if not list(tensors(value))]
    return all(value is None or isinstance(value, bool | int | float | str) for value in arguments)


RULES: dict[str, Rule] = {
    **dict.fromkeys((*LAYERS, *OPERATIONS), pass_on),
    "BatchNormalization": batch_normalization,
    "PReLU": prelu,
    **dict.fromkeys(
        ("LayerNormalization", "RMSNormalization", "GroupNormalization", "UnitNormalization"),
        normalization_over_units,
    ),
}

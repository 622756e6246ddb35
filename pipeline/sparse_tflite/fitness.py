"""Whether an operator can be part of a channel-first cluster of XNNPACK's sparse inference, and as what.

After `xnn_check_nchw_compatibility` of XNNPACK's src/subgraph.c. A cluster is what XNNPACK can run on channel-first
data: it begins with a HEAD that turns the image over, and ends with a TAIL that turns the result back.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Flag

from pipeline.sparse_tflite.operators import Graph, Operator
from pipeline.sparse_tflite.schema import schema
from pipeline.sparse_tflite.tables import Tensor

STEM = "use ZeroPadding2D(1) and padding='valid' in the stem"
# Of an even image there is an exact rewrite.
EXACTLY = "; or, with the same answers: `edgepipe rewrite`"
PADDED = "use ZeroPadding2D({}) and padding='valid'"
SEPARABLE = "use a depthwise convolution and a 1x1 convolution in its place"
INSTEAD = {
    "MAX_POOL_2D": "let a depthwise convolution take the stride: ZeroPadding2D(1), then strides=2, padding='valid'",
    "AVERAGE_POOL_2D": "use GlobalAveragePooling2D where it averages the whole image, "
    "or let a depthwise convolution take the stride: ZeroPadding2D(1), then strides=2, padding='valid'",
    "CONCATENATION": "join the branches by Add",
    "PRELU": "use LeakyReLU or ReLU",
    "SUB": "fold the sign into the weights, and use Add",
    "REDUCE_MAX": "use GlobalAveragePooling2D",
    "RESHAPE": "in squeeze-and-excite, use GlobalAveragePooling2D(keepdims=True) and 1x1 convolutions",
}


class Role(Flag):
    """What an operator can be in a cluster; a mean is both inside and tail until something inside reads it."""

    NONE = 0
    HEAD = 1
    INSIDE = 2
    TAIL = 4


@dataclass(frozen=True)
class Fitness:
    """An operator's role; for NONE the reason, and what would help."""

    role: Role
    reason: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class FitnessRules:
    """What a release of XNNPACK takes into clusters besides convolutions: operators of one input, and reductions, by
    name; whether these may reduce other axes than height and width; and whether FULLY_CONNECTED is one of them."""

    unary: frozenset[str]
    reductions: frozenset[str]
    any_axes: bool
    fully_connected: bool


Padding = tuple[int, int, int, int]


def fitness(graph: Graph, operator: Operator, padding: Tensor | None, rules: FitnessRules) -> Fitness:
    """The role of a computing operator; `padding` holds the paddings of a PAD that was folded into it, if any."""
    if misfit := _not_floats(graph, operator):
        return misfit
    kind = operator.kind
    if kind == "CONV_2D":
        return _convolution(operator, _padding(operator, padding))
    if kind == "DEPTHWISE_CONV_2D":
        return _depthwise(operator, _padding(operator, padding))
    if kind == "FULLY_CONNECTED" and rules.fully_connected:
        return Fitness(Role.INSIDE)
    if kind in ("ADD", "MUL"):
        return _join(graph, operator)
    if kind in rules.unary:
        return _on_images(operator, Role.INSIDE)
    if kind in rules.reductions:
        return _reduction(operator, rules.any_axes)
    if kind == "DEPTH_TO_SPACE":
        return Fitness(Role.TAIL)
    if kind == "RESIZE_BILINEAR":
        grows = operator.source is not None and min(operator.source.shape[1:3], default=0) > 1
        return Fitness(Role.INSIDE) if grows else _none(operator, "resizes an image one pixel wide")
    return _none(operator, "has no channel-first kernel", INSTEAD.get(kind, ""))


def _not_floats(graph: Graph, operator: Operator) -> Fitness | None:
    moving = [
        tensor for tensor in operator.inputs if tensor is not None and tensor.number not in graph.static
    ]
    if any(tensor.dtype not in ("float32", "float16") for tensor in (*moving, *operator.outputs)):
        return _none(operator, "does not compute in floating point")
    if operator.weights is not None and operator.weights.dtype not in ("float32", "float16"):
        return _none(operator, f"has {operator.weights.dtype} weights")
    return None


def _padding(operator: Operator, folded: Tensor | None) -> Padding | None:
    """Top, bottom, left and right; None where the runtime pads as TensorFlow's `same` does with a stride."""
    options, weights = operator.options, operator.weights
    if folded is not None and folded.integers is not None:
        return folded.integers[2:6]  # type: ignore[return-value]
    if options.padding == schema().Padding.VALID:
        return (0, 0, 0, 0)
    if weights is None or max(options.strideH, options.strideW) > 1:
        return None
    height, width = (
        (size - 1) * dilation
        for size, dilation in zip(
            weights.shape[1:3], (options.dilationHFactor, options.dilationWFactor), strict=True
        )
    )
    return (height // 2, height - height // 2, width // 2, width - width // 2)


def _convolution(operator: Operator, padding: Padding | None) -> Fitness:
    options, weights, source = operator.options, operator.weights, operator.source
    if weights is None or source is None:
        return _none(operator, "has weights that are no constant")
    channels, kernel, strides = weights.shape[-1], weights.shape[1:3], (options.strideH, options.strideW)
    if source.shape[-1] != channels:
        return _none(operator, "is a convolution in groups", SEPARABLE)
    if max(options.dilationHFactor, options.dilationWFactor) > 1:
        return _none(operator, "is dilated")
    if kernel == (1, 1):
        if padding is not None and any(padding):
            return _none(operator, "is a padded 1x1 convolution")
        if strides != (1, 1):
            return _none(operator, f"is a 1x1 convolution of stride {max(strides)}", "stride before it")
        return Fitness(Role.INSIDE)
    words = f"is a {kernel[0]}x{kernel[1]} convolution"
    if kernel == (3, 3) and strides == (2, 2) and channels == 3:
        if padding == (1, 1, 1, 1):
            return Fitness(Role.HEAD)
        there = f"{words}, {_padded(padding)} where 1 on every side begins a cluster"
        return _none(operator, there, STEM + _exactly(source, padding))
    begins = "3x3 of stride 2 on 3 channels begins a cluster, 1x1 is inside"
    return _none(operator, f"{words} of stride {max(strides)} on {channels} channels; {begins}", SEPARABLE)


def _depthwise(operator: Operator, padding: Padding | None) -> Fitness:
    options, weights = operator.options, operator.weights
    if weights is None:
        return _none(operator, "has weights that are no constant")
    kernel, strides = weights.shape[1:3], (options.strideH, options.strideW)
    words = f"is a {kernel[0]}x{kernel[1]} depthwise convolution of stride {max(strides)}"
    if max(options.dilationHFactor, options.dilationWFactor) > 1:
        return _none(operator, "is dilated")
    if options.depthMultiplier != 1:
        return _none(operator, f"has a depth multiplier of {options.depthMultiplier}, expected 1")
    if kernel not in ((3, 3), (5, 5)) or strides not in ((1, 1), (2, 2)):
        return _none(operator, f"{words}; 3x3 and 5x5 of stride 1 and 2 are inside")
    wanted = kernel[0] // 2
    if padding != (wanted,) * 4:
        there = f"{words}, {_padded(padding)} where {wanted} on every side is inside"
        exactly = _exactly(operator.source, padding) if kernel == (3, 3) else ""
        return _none(operator, there, PADDED.format(wanted) + exactly)
    return Fitness(Role.INSIDE)


def _exactly(image: Tensor | None, padding: Padding | None) -> str:
    even = image is not None and len(image.shape) == 4 and image.shape[1] % 2 == image.shape[2] % 2 == 0
    return EXACTLY if even and padding is None else ""


def _padded(padding: Padding | None) -> str:
    if padding is None:
        return "padded as `same` does"
    return "not padded" if not any(padding) else f"padded by {'/'.join(map(str, padding))}"


def _join(graph: Graph, operator: Operator) -> Fitness:
    first, second = (tensor for tensor in operator.inputs[:2] if tensor is not None)
    if len(first.shape) != 4 or len(second.shape) != 4:
        return _none(operator, "does not join two images", "give the smaller one the shape (1, 1, channels)")
    # XNNPACK looks at the first shape in both cases, so that a second constant joins no image.
    if {first.number, second.number} & graph.static and sum(size != 1 for size in first.shape) > 1:
        return _none(
            operator, "joins an image with a constant", "fold the constant into the convolution before"
        )
    return Fitness(Role.INSIDE)


def _reduction(operator: Operator, any_axes: bool) -> Fitness:
    axes = operator.inputs[1].integers if len(operator.inputs) > 1 and operator.inputs[1] else None
    if axes is None or (sorted(axis % 4 for axis in axes) != [1, 2] and not any_axes):
        return _none(operator, "reduces other axes than height and width", "use GlobalAveragePooling2D")
    return _on_images(operator, Role.INSIDE | Role.TAIL)


def _on_images(operator: Operator, role: Role) -> Fitness:
    source = operator.source
    return Fitness(role) if source and len(source.shape) == 4 else _none(operator, "reads no image")


def _none(operator: Operator, reason: str, remedy: str = "") -> Fitness:
    return Fitness(Role.NONE, f"{operator.title} {reason}", remedy)

"""Layers with a kernel: their outputs are units of their own, and they read those of the layer before."""

from __future__ import annotations

import numpy as np

from pipeline.pruning.surgery.flow import NotFollowedError, Role, Rule, Site
from pipeline.pruning.surgery.labels import Labels
from pipeline.pruning.surgery.rules.unitwise import check_activation, pin_mixed


def dense(site: Site) -> None:
    """y = x K + b, along the last axis."""
    entering, units = site.last("inputs"), site.units(site.config["units"])
    site.hold("consumes", 0, 0, entering, rows=(0,))
    site.hold("produces", 0, 1, units)
    _end(site, 1, units, "units")


def embedding(site: Site) -> None:
    """A row of the table for each index; the width of the rows are the units."""
    units = site.units(site.config["output_dim"])
    site.hold("produces", 0, 1, units)
    site.option("output_dim", units)
    site.give(units)


def convolution(site: Site) -> None:
    """Kernel (size..., channels / groups, filters).

    In groups, the k-th channels of all groups are one unit, and so are the k-th filters: the groups stay as many and
    alike.
    """
    _channels_last(site)
    entering, units = site.last("inputs"), site.units(site.config["filters"])
    rank = len(site.shapes[0])
    site.hold("consumes", 0, -2, _coupled(site, entering), rows=tuple(range(rank - 1)))
    _coupled(site, units)
    site.hold("produces", 0, -1, units)
    _end(site, 1, units, "filters")


def transposed_convolution(site: Site) -> None:
    """Kernel (size..., filters, channels)."""
    _channels_last(site)
    entering, units = site.last("inputs"), site.units(site.config["filters"])
    site.hold("consumes", 0, -1, entering, rows=(len(site.shapes[0]) - 1,))
    site.hold("produces", 0, -2, units)
    _end(site, 1, units, "filters")


def depthwise_convolution(site: Site) -> None:
    """Kernel (size..., channels, m): a channel becomes m channels, and these follow it."""
    _channels_last(site)
    check_activation(site)
    entering = site.last("inputs")
    site.hold("carries", 0, -2, entering)
    leaving = np.repeat(entering, site.config["depth_multiplier"])
    if site.config["use_bias"]:
        site.hold("carries", 1, 0, leaving)
    site.give(leaving)


def separable_convolution(site: Site) -> None:
    """A depthwise kernel (size..., channels, m), then a pointwise one (1..., channels m, filters)."""
    _channels_last(site)
    entering, units = site.last("inputs"), site.units(site.config["filters"])
    site.hold("carries", 0, -2, entering)
    between = np.repeat(entering, site.config["depth_multiplier"])
    site.hold("consumes", 1, -2, between, rows=tuple(range(len(site.shapes[1]) - 1)))
    site.hold("produces", 1, -1, units)
    _end(site, 2, units, "filters")


def einsum_dense(site: Site) -> None:
    """A contraction such as 'abc,cd->abd': the letters that both terms have and the result has not are summed over.

    Units enter along one letter. Is it summed over, the first letter that only the kernel brings makes the units.
    Is it in the result, they go on along it. Letters are counted from the end, for what '...' stands for comes first.
    """
    equation, result = str(site.config["equation"]).replace(" ", "").split("->")
    first, kernel = equation.split(",")
    if any("..." in term[1:] for term in (first, result)):
        raise site.not_followed()
    first, result = first.replace("...", ""), result.replace("...", "")
    tensor, layout = site.entering("inputs")
    from_the_end = len(tensor.shape) - layout.axis
    letter = first[-from_the_end] if from_the_end <= len(first) else ""
    if letter and letter in result:
        check_activation(site)
        if letter in kernel:
            site.hold("carries", 0, kernel.index(letter), layout.labels)
        _end_einsum(site, result, letter, layout.labels, "carries")
        return
    new = [each for each in result if each in kernel and each not in first]
    if letter not in kernel or not letter or not new:
        raise site.not_followed()
    rows = tuple(axis for axis, each in enumerate(kernel) if each in first and each not in result)
    site.hold("consumes", 0, kernel.index(letter), layout.labels, rows)
    units = site.units(site.shapes[0][kernel.index(new[0])])
    site.hold("produces", 0, kernel.index(new[0]), units)
    pin_mixed(site, units)
    _end_einsum(site, result, new[0], units, "biases")


def _end_einsum(site: Site, result: str, letter: str, labels: Labels, bias: Role) -> None:
    """The bias, which has the result's axes from its first on, the size of the axis, and the output."""
    biases = site.config["bias_axes"] or ""
    if letter in biases:
        along = result[min(result.index(each) for each in biases) :]
        site.hold(bias, 1, along.index(letter), labels)
    from_the_end = result.index(letter) - len(result)
    shape = list(site.config["output_shape"])
    if shape[from_the_end] is not None:
        shape[from_the_end] = labels
        site.option("output_shape", tuple(shape))
    site.give(labels, from_the_end)


def _end(site: Site, bias: int, units: Labels, option: str) -> None:
    """The bias, the activation, the number of units, and the output, along whose last axis they come."""
    pin_mixed(site, units)
    if site.config["use_bias"]:
        site.hold("biases", bias, 0, units)
    site.option(option, units)
    site.give(units)


def _coupled(site: Site, labels: Labels) -> Labels:
    """The labels of the first group, with which those of the others are coupled."""
    groups = np.split(labels, site.config["groups"])
    for other in groups[1:]:
        site.couple(groups[0], other)
    return groups[0]


def _channels_last(site: Site) -> None:
    if site.config["data_format"] != "channels_last":
        raise NotFollowedError(
            f"{site.name!r} has its channels first; units are followed where they are last."
        )


RULES: dict[str, Rule] = {
    "Dense": dense,
    "Embedding": embedding,
    "EinsumDense": einsum_dense,
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D"), convolution),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), transposed_convolution),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), depthwise_convolution),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), separable_convolution),
}

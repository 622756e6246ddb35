"""Layers that join tensors: what they put together unit by unit leaves together."""

from __future__ import annotations

import numpy as np

from pipeline.pruning.surgery.flow import NotFollowedError, Rule, Site, tensors


def unit_by_unit(site: Site) -> None:
    """Sums, products and the like, also with a tensor that is the same for all positions.

    A layer puts missing axes after the batch; an operation, such as x + y, before it, so there they are refused.
    """
    given = list(tensors(site.call.arguments))
    numbers = [value for value in site.call.arguments.values() if not list(tensors(value))]
    rank = len(site.output.shape)
    operation = "x1" in site.call.arguments
    if any(not isinstance(value, int | float) for value in numbers) or any(
        len(tensor.shape) != rank and operation for tensor in given
    ):
        raise site.not_followed()
    layouts = [
        (layout.axis - len(tensor.shape), layout.labels)
        for tensor in given
        for layout in [site.layout(tensor)]
    ]
    axis = next((axis for axis, labels in layouts if site.output.shape[axis] == len(labels)), -1)
    joined = None
    for tensor, (own_axis, labels) in zip(given, layouts, strict=True):
        if own_axis == axis and len(labels) == site.output.shape[axis]:
            joined = labels if joined is None else joined
            site.couple(joined, labels)
        elif (tensor.shape[axis] if len(tensor.shape) > -axis else 1) == 1:
            site.flow.pin(tensor, f"{site.name!r} spreads them over other units.")
        else:
            raise NotFollowedError(f"{site.name!r} joins tensors with their units along different axes.")
    if joined is None:
        raise site.not_followed()
    site.give(joined, axis)


def concatenate(site: Site) -> None:
    """Along the units' axis they follow each other; along another, the i-th units of all are one."""
    given = list(tensors(site.call.arguments))
    if "axis" not in site.config:
        raise site.not_followed()
    layouts = [site.layout(tensor) for tensor in given]
    axis = site.config["axis"] % len(given[0].shape)
    along = layouts[0].axis
    if any(layout.axis != along for layout in layouts):
        raise NotFollowedError(f"{site.name!r} joins tensors with their units along different axes.")
    if along == axis:
        site.give(np.concatenate([layout.labels for layout in layouts]), axis)
        return
    for layout in layouts[1:]:
        site.couple(layouts[0].labels, layout.labels)
    site.give(layouts[0].labels, along)


RULES: dict[str, Rule] = {
    **dict.fromkeys(("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"), unit_by_unit),
    "Concatenate": concatenate,
}

"""Layers that move, drop or repeat positions, but keep every unit apart from the others."""

from __future__ import annotations

from itertools import product

import numpy as np

from pipeline.models.graph import Tensor
from pipeline.pruning.surgery.flow import Layout, NotFollowedError, Rule, Site
from pipeline.pruning.surgery.labels import Labels

KINDS = (
    *("MaxPooling", "AveragePooling", "GlobalMaxPooling", "GlobalAveragePooling"),
    *("UpSampling", "ZeroPadding", "Cropping"),
)


def spatial(site: Site) -> None:
    """Pooling, padding, cropping and upsampling of each channel."""
    _channels_last(site)
    site.give(site.last("inputs"))


def repeat_vector(site: Site) -> None:
    """(units) to (n, units)."""
    site.give(site.last("inputs"))


def permute(site: Site) -> None:
    """The units move along with their axis."""
    _, layout = site.entering("inputs")
    site.give(layout.labels, 1 + tuple(site.config["dims"]).index(layout.axis))


def flatten(site: Site) -> None:
    """Each unit becomes as many as it has positions."""
    _channels_last(site)
    site.give(_spread(site, *site.entering("inputs")).ravel())


def reshape(site: Site) -> None:
    """The units go on along the last axis at whose every position there is one unit only.

    Where there is none, what comes together at a position of the last axis becomes one unit.
    """
    target = site.output.shape[1:]
    if None in target:
        raise NotFollowedError(f"{site.name!r} reshapes to a shape that is not known before the model runs.")
    spread = _spread(site, *site.entering("inputs")).reshape(target)  # type: ignore[arg-type]
    slices = [np.moveaxis(spread, axis, 0).reshape(spread.shape[axis], -1) for axis in range(spread.ndim)]
    roots = [site.flow.sets.roots(each) for each in slices]
    alone = [axis for axis, each in enumerate(roots) if (each == each[:, :1]).all()]
    axis = alone[-1] if alone else spread.ndim - 1
    for other in slices[axis].T[1:]:
        site.couple(slices[axis][:, 0], other)
    labels = slices[axis][:, 0].copy()
    shape = list(site.config["target_shape"])
    if shape[axis] != -1:
        shape[axis] = labels
    site.option("target_shape", tuple(shape))
    site.give(labels, axis + 1)


def _spread(site: Site, tensor: Tensor, layout: Layout) -> Labels:
    """The label of every element of a sample."""
    shape = tensor.shape[1:]
    if None in shape:
        raise NotFollowedError(f"{site.name!r} gets a shape that is not known before the model runs.")
    along = [1] * len(shape)
    along[layout.axis - 1] = -1
    return np.broadcast_to(layout.labels.reshape(along), shape)  # type: ignore[arg-type]


def _channels_last(site: Site) -> None:
    if site.config.get("data_format") not in (None, "channels_last"):
        raise NotFollowedError(
            f"{site.name!r} has its channels first; units are followed where they are last."
        )


RULES: dict[str, Rule] = {
    **{f"{kind}{rank}D": spatial for kind, rank in product(KINDS, (1, 2, 3))},
    "RepeatVector": repeat_vector,
    "Permute": permute,
    "Flatten": flatten,
    "Reshape": reshape,
}

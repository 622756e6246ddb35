"""Magnitude: the smallest weights go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from pipeline.pruning import masks
from pipeline.pruning.layer import Layer, Pruned, pruned

UNIT: Literal["loss", "relative"] = "relative"
GRANULARITY: Literal["element", "unit"] = "element"
NEEDS: frozenset[str] = frozenset()


class Options(BaseModel):
    """Options of the method 'magnitude'."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scope: Literal["layer", "global"] = Field(
        "layer", description="layer: the same share of every kernel; global: one threshold over all kernels"
    )


def prune(layers: Sequence[Layer], sparsity: float, options: Options) -> Iterator[Pruned]:
    """Remove round(sparsity * size) weights of each layer, or of all layers together; the others stay as they are."""
    scores = [np.abs(layer.weight) for layer in layers]
    if options.scope == "global":
        chosen = masks.by_count(scores, masks.removals(sparsity, sum(score.size for score in scores)))
        ranked = f"The smallest {sparsity:.1%} of all kernel weights of the model were removed."
    else:
        chosen = [masks.by_count([score], masks.removals(sparsity, score.size))[0] for score in scores]
        ranked = f"The smallest {sparsity:.1%} of the layer's weights were removed."
    for layer, mask in zip(layers, chosen, strict=True):
        yield pruned(layer, layer.weight, mask, ranked)

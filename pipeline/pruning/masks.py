"""Element masks: which weights may stay. True stays, False is removed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def removals(sparsity: float, size: int) -> int:
    """How many of `size` elements a sparsity in [0, 1) removes."""
    return round(sparsity * size)


def by_count(scores: Sequence[NDArray[np.floating]], removed: int) -> list[NDArray[np.bool_]]:
    """Masks, shaped as `scores`, that remove exactly the `removed` lowest of all scores together.

    Of equal scores the earlier (array, then C order) goes first.
    """
    every = np.concatenate([np.ravel(score) for score in scores]) if scores else np.empty(0)
    stays = np.ones(every.size, bool)
    stays[np.argsort(every, kind="stable")[:removed]] = False
    parts = np.split(stays, np.cumsum([score.size for score in scores])[:-1]) if scores else []
    return [part.reshape(score.shape) for part, score in zip(parts, scores, strict=True)]

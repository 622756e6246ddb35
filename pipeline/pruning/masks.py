"""Masks: which weights, or blocks of weights, may stay. True stays, False is removed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.pruning.granularity import Granularity
from pipeline.pruning.layer import Quota

Scores = NDArray[np.floating]
Mask = NDArray[np.bool_]


def removals(sparsity: float, size: int) -> int:
    """How many of `size` elements a sparsity in [0, 1) removes."""
    return round(sparsity * size)


def by_count(scores: Sequence[Scores], removed: int) -> list[Mask]:
    """Masks, shaped as `scores`, that remove exactly the `removed` lowest of all scores together.

    Of equal scores the earlier (array, then C order) goes first. Takes time in proportion to the number of scores.
    """
    if not scores:
        return []
    every = np.concatenate([np.ravel(score) for score in scores])
    stays = np.ones(every.size, bool)
    if removed >= every.size:
        stays[:] = False
    elif removed > 0:
        threshold = np.partition(every, removed - 1)[removed - 1]
        stays = every >= threshold
        equal = np.flatnonzero(every == threshold)
        stays[equal[: removed - (every.size - np.count_nonzero(stays))]] = False
    parts = np.split(stays, np.cumsum([score.size for score in scores])[:-1])
    return [part.reshape(score.shape) for part, score in zip(parts, scores, strict=True)]


def by_column(scores: Scores, removed: int | NDArray[np.intp]) -> Mask:
    """A mask that removes the `removed` lowest scores of every column (one number, or one a column)."""
    ranks = np.argsort(np.argsort(scores, axis=0, kind="stable"), axis=0, kind="stable")
    mask: Mask = ranks >= removed
    return mask


def by_pattern(scores: Scores, keep: int, of: int) -> Mask:
    """A mask (d, r) that keeps the `keep` highest of every `of` consecutive scores of a column.

    Of a last group with fewer scores as many stay, as far as there are.
    """
    mask = np.ones(scores.shape, bool)
    for start in range(0, len(scores), of):
        part = scores[start : start + of]
        mask[start : start + of] = by_column(part, max(len(part) - keep, 0))
    return mask


def by_quota(scores: Scores, shape: tuple[int, ...], granularity: Granularity, quota: Quota | None) -> Mask:
    """The mask of a kernel (d, r) whose blocks have these scores, after what `quota`, or else the pattern, removes."""
    if granularity.pattern is not None:
        return by_pattern(scores, *granularity.pattern)
    if quota is None:
        raise ValueError(f"expected a quota for the granularity {granularity.name!r}, received none")
    if quota.evenly:
        return granularity.expand(by_column(scores, quota.blocks // scores.shape[1]), shape)
    return granularity.expand(by_count([scores], quota.blocks)[0], shape)

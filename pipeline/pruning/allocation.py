"""Allocation: how many blocks each layer loses.

An allocation puts the blocks of all layers into one order by giving each a key, lowest first; what is to be removed
is a beginning of that order: a share of it (sparsity), or the shortest after which the model is within a budget.

With k = 0, 1, ... for the blocks of a layer in the order in which it gives them, of b in all, the key of a block is

global   its score
uniform  (k + 1/2) / b: every layer gives the same share
row      as uniform, and within a layer every column of blocks (output) gives the same
erk      ((k + 1/2) / b - 1) / e, where e = (sum of the kernel's dimensions) / (their product): layers keep shares in
         proportion to e, but never more than all (Evci et al. 2020, RigL's Erdos-Renyi-Kernel)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.pruning import masks
from pipeline.pruning.budget import Budget, Fixed, cost
from pipeline.pruning.granularity import Granularity
from pipeline.pruning.layer import Layer, Quota
from pipeline.pruning.rules import Terms

Keys = NDArray[np.floating]


@dataclass(frozen=True)
class Request:
    """What is to be removed: a sparsity (share of all blocks), or a budget for the model, and how it is shared out.

    `terms` are what the rules say of a layer, by its name; `fixed` what the rest of the model costs.
    """

    goal: float | Budget
    granularity: Granularity
    allocation: str
    terms: Mapping[str, Terms]
    fixed: Fixed = field(default_factory=Fixed)

    def of(self, layer: Layer) -> Terms:
        """What the rules say of the layer."""
        return self.terms.get(layer.name, Terms())


def quotas(layers: Sequence[Layer], request: Request, scores: Callable[[Layer], Keys]) -> dict[str, Quota]:
    """How many blocks each of `layers` loses. `scores` are asked for in the allocation 'global' only.

    Raises `ValueError` where the rules, or the size of the model, leave too little to remove.
    """
    grids = {layer.name: request.granularity.grid(layer.weight.shape) for layer in layers}
    most = {layer.name: _most(layer, request) for layer in layers}
    counts = {layer.name: _own(layer, request, most[layer.name]) for layer in layers}
    shared = [layer for layer in layers if request.of(layer).sparsity is None]
    keys = [_keys(layer, request, scores, most[layer.name]) for layer in shared]

    def removing(found: Sequence[int]) -> dict[str, Quota]:
        given = counts | {layer.name: count for layer, count in zip(shared, found, strict=True)}
        if request.allocation != "row":
            return {name: Quota(count) for name, count in given.items()}
        return {name: _even(count, grids[name], most[name]) for name, count in given.items()}

    def costs(found: Sequence[int]) -> int:
        given = removing(found)
        left = {
            layer.name: request.granularity.left(layer.weight.shape, given[layer.name].blocks)[1]
            for layer in layers
        }
        assert isinstance(request.goal, Budget)
        return cost(request.goal.measure, layers, left, request.fixed)

    size, spare = sum(each.size for each in keys), sum(most[layer.name] for layer in shared)
    if isinstance(request.goal, Budget):
        return removing(within(request.goal, keys, spare, costs))
    return removing(of_all(keys, request.goal, masks.removals(request.goal, size), spare))


def of_all(keys: Sequence[Keys], sparsity: float, wanted: int, spare: int) -> list[int]:
    """How many of each of `keys` are among the `wanted` lowest, which is what `sparsity` comes to; `spare` may go.

    Raises `ValueError` where that is fewer.
    """
    if wanted > spare:
        size = sum(each.size for each in keys)
        raise ValueError(
            f"a sparsity of {sparsity:g} cannot be met: min_keep leaves {spare / size:.4f} to remove, at most"
        )
    return [int(np.count_nonzero(~mask)) for mask in masks.by_count(keys, wanted)]


def within(
    budget: Budget, keys: Sequence[Keys], spare: int, costs: Callable[[Sequence[int]], int]
) -> list[int]:
    """How many of each of `keys` go: the fewest in the order of all keys after which the model is within the budget.

    Of the order the first `spare` may go; `costs` is what the model costs without so many of each. Raises `ValueError`
    where that is too much even then.
    """
    owners = np.repeat(np.arange(len(keys)), np.array([each.size for each in keys], int))
    order = owners[np.argsort(np.concatenate([np.empty(0), *keys]), kind="stable")]

    def after(count: int) -> list[int]:
        found: list[int] = np.bincount(order[:count], minlength=len(keys)).tolist()
        return found

    if (least := costs(after(spare))) > budget.limit:
        raise ValueError(
            f"a budget of {budget.limit:,} {budget.measure} cannot be met: with all removed that may be, "
            f"{least:,} are left"
        )
    low, high = 0, spare
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if costs(after(middle)) <= budget.limit else (middle + 1, high)
    return after(high)


def _most(layer: Layer, request: Request) -> int:
    """How many blocks of a layer may go, for it to keep what a rule says."""
    shape, keep = layer.weight.shape, request.of(layer).min_keep
    along, across = request.granularity.grid(shape)
    low, high = 0, along * across
    while low < high:
        middle = (low + high + 1) // 2
        if request.granularity.left(shape, middle)[0] >= keep:
            low = middle
        else:
            high = middle - 1
    return low


def _own(layer: Layer, request: Request, most: int) -> int:
    """How many blocks a layer loses by a sparsity of its own."""
    terms = request.of(layer)
    if terms.sparsity is None:
        return 0
    along, across = request.granularity.grid(layer.weight.shape)
    count = masks.removals(terms.sparsity, along * across)
    if count > most:
        raise ValueError(
            f"{layer.name}: a sparsity of {terms.sparsity:g} cannot be met: min_keep leaves "
            f"{most / (along * across):.4f} to remove, at most"
        )
    return count


def _keys(layer: Layer, request: Request, scores: Callable[[Layer], Keys], most: int) -> Keys:
    along, across = request.granularity.grid(layer.weight.shape)
    size = along * across
    if request.allocation == "global":
        keys = np.ravel(scores(layer))
    else:
        keys = even_keys(size)
        if request.allocation == "erk":
            shape = layer.shape or layer.weight.shape
            keys = (keys - 1) / (sum(shape) / float(np.prod(shape)))
    return protected(keys, most)


def even_keys(size: int) -> Keys:
    """Those of the allocation 'uniform'."""
    return (np.arange(size) + 0.5) / size


def protected(keys: Keys, most: int) -> Keys:
    """The keys of which `most` may go; the others, which a rule protects, come last."""
    return np.where(masks.by_count([keys], most)[0], np.inf, keys) if most < keys.size else keys


def _even(count: int, grid: tuple[int, int], most: int) -> Quota:
    """About `count` blocks, as many from every column of blocks."""
    across = grid[1]
    return Quota(min(round(count / across), most // across) * across, evenly=True)

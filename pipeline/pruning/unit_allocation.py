"""How many units of each group stay.

The units of a group leave in the order of their scores, and those of all groups in one order, see `allocation`:
'uniform', or for scores that are losses

global   the loss; under a budget the loss for each parameter, byte or multiply-accumulate of the budget that the unit
         alone would free in the model as trained: what is to be freed is then had at the least loss

Of each group a multiple stays: never fewer units than a sparsity asks for, and so few that a budget is met.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.pruning import masks
from pipeline.pruning.allocation import even_keys, of_all, protected, within
from pipeline.pruning.budget import Budget
from pipeline.pruning.rules import Terms

Scores = NDArray[np.floating]
Counts = Mapping[str, int]


def _nothing(leaving: Counts) -> int:
    return 0


@dataclass(frozen=True)
class UnitRequest:
    """What is to leave: a sparsity (share of all units), or a budget for the model, and how it is shared out.

    `terms` are what the rules say of a group, by its name. `cost` is what the model costs, in the budget's measure,
    without so many units of each group.
    """

    goal: float | Budget
    allocation: str
    multiple: int = 1
    terms: Mapping[str, Terms] = field(default_factory=dict)
    cost: Callable[[Counts], int] = _nothing

    def of(self, group: str) -> Terms:
        """What the rules say of the group."""
        return self.terms.get(group, Terms())


def staying(sizes: Counts, request: UnitRequest, scores: Callable[[str], Scores]) -> dict[str, int]:
    """How many units of each group, of which `sizes` has the number, stay. `scores` are asked for in the allocation
    'global' only.

    Raises `ValueError` where the rules, or the size of the model, leave too little to remove.
    """
    taking = {name: size for name, size in sizes.items() if request.of(name).skipped_by is None}
    most = {name: size - min(size, max(1, request.of(name).min_keep)) for name, size in taking.items()}
    own = {name: _own(name, size, most[name], request) for name, size in taking.items()}
    shared = [name for name in taking if request.of(name).sparsity is None]
    keys = [protected(_keys(name, sizes[name], request, scores), most[name]) for name in shared]

    def left(found: Sequence[int]) -> dict[str, int]:
        gone = own | dict(zip(shared, found, strict=True))
        return {name: kept(size, gone.get(name, 0), request.multiple) for name, size in sizes.items()}

    def costs(found: Sequence[int]) -> int:
        return request.cost({name: sizes[name] - count for name, count in left(found).items()})

    spare = sum(most[name] for name in shared)
    if isinstance(request.goal, Budget):
        return left(within(request.goal, keys, spare, costs))
    # One unit of each group always stays; that is no fault of the request's.
    size = sum(sizes[name] for name in shared)
    wanted = min(masks.removals(request.goal, size), size - len(shared))
    return left(of_all(keys, request.goal, wanted, spare))


def kept(size: int, removed: int, multiple: int) -> int:
    """How many of `size` units stay when `removed` are asked to leave: one or more, rounded up to a multiple while
    there are so many.
    """
    asked = max(1, size - removed)
    return min(size, -(-asked // multiple) * multiple)


def _own(name: str, size: int, most: int, request: UnitRequest) -> int:
    """How many units of a group are to leave by a sparsity of its own."""
    sparsity = request.of(name).sparsity
    if sparsity is None:
        return 0
    count = min(masks.removals(sparsity, size), size - 1)
    if count > most:
        raise ValueError(
            f"{name}: a sparsity of {sparsity:g} cannot be met: min_keep leaves {most / size:.4f} to remove, at most"
        )
    return count


def _keys(name: str, size: int, request: UnitRequest, scores: Callable[[str], Scores]) -> Scores:
    if request.allocation != "global":
        return even_keys(size)
    losses = scores(name)
    if not isinstance(request.goal, Budget):
        return losses
    freed = request.cost({}) - request.cost({name: 1})
    return losses / freed if freed > 0 else np.full(size, np.inf)

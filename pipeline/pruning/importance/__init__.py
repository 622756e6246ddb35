"""Importances: each file of this folder says what is removed first. Its name is the method's name in the plan.

A file has
UNIT         'loss': its scores estimate an increase of the loss; 'relative': they only rank
GRANULARITY  'element': `scores` and `prune`, see `ElementImportance`
             'unit': `keep(outgoing, sparsity, options)` returns the units that stay, sorted
NEEDS        what it cannot do without: frozenset of 'calibration'
Options      its options in the plan, a frozen pydantic model
and for elements
ALLOCATIONS  how its layers may share what is removed, as named in `allocation`; the first is the default. 'global' is
             there only where its scores of different layers compare
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from pipeline.pruning.granularity import Granularity
from pipeline.pruning.layer import Layer, Pruned, Quota


class Importance(Protocol):
    """What every importance is."""

    UNIT: Literal["loss", "relative"]
    GRANULARITY: Literal["element", "unit"]
    NEEDS: frozenset[str]
    Options: type[BaseModel]


class ElementImportance(Importance, Protocol):
    """Removes weights, or blocks of them.

    `scores` are shaped as `granularity.grid`; what has the lowest is to go first. They are asked for before any layer
    is pruned, and only to share out among the layers. `prune` takes from the layer, as the model is by then, what its
    quota says; it is None where the granularity's pattern says it.
    """

    ALLOCATIONS: tuple[str, ...]

    def scores(self, layer: Layer, granularity: Granularity, options: Any) -> NDArray[np.floating]: ...

    def prune(self, layer: Layer, granularity: Granularity, quota: Quota | None, options: Any) -> Pruned: ...


class UnitImportance(Importance, Protocol):
    """Removes whole units. `outgoing` is (units, next_outputs): row i holds the weights that unit i feeds."""

    def keep(self, outgoing: NDArray[np.floating], sparsity: float, options: Any) -> NDArray[np.intp]: ...


def names() -> list[str]:
    """The importances there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Importance:
    """The importance `name`. Raises `ValueError` for an unknown one."""
    if name not in names():
        raise ValueError(f"unknown pruning method {name!r}; known: {', '.join(names())}")
    return cast(Importance, importlib.import_module(f"{__name__}.{name}"))

"""Importances: each file of this folder says what is removed first. Its name is the method's name in the plan.

A file has
UNIT         'loss': its scores estimate an increase of the loss; 'relative': they only rank
GRANULARITY  'element': `scores` and `prune`, see `ElementImportance`
             'unit': `scores(group, options)` returns how important each unit of a group is; `Options` extend
             `UnitOptions`
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
from pydantic import BaseModel, ConfigDict, Field

from pipeline.pruning.granularity import Granularity
from pipeline.pruning.layer import Layer, Pruned, Quota
from pipeline.pruning.surgery.groups import Group


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


class UnitOptions(BaseModel):
    """What every method that removes whole units lets the plan say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    multiple: int = Field(
        8,
        ge=1,
        description="units are kept in multiples of this, as processors like them, never fewer than asked",
    )


class UnitImportance(Importance, Protocol):
    """Removes whole units."""

    def scores(self, group: Group, options: Any) -> NDArray[np.floating]:
        """(units,): those with the lowest leave first."""


def names() -> list[str]:
    """The importances there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Importance:
    """The importance `name`. Raises `ValueError` for an unknown one."""
    if name not in names():
        raise ValueError(f"unknown pruning method {name!r}; known: {', '.join(names())}")
    return cast(Importance, importlib.import_module(f"{__name__}.{name}"))

"""Importances: each file of this folder says what is removed first. Its name is the method's name in the plan.

A file has
UNIT         'loss': its scores estimate an increase of the loss; 'relative': they only rank
GRANULARITY  'element': `prune(layers, sparsity, options)` yields a `Pruned` a layer, each before the next is looked at
             'unit': `keep(outgoing, sparsity, options)` returns the units that stay, sorted
NEEDS        what it cannot do without: frozenset of 'calibration'
Options      its options in the plan, a frozen pydantic model
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from pipeline.pruning.layer import Layer, Pruned


class Importance(Protocol):
    """What every importance is."""

    UNIT: Literal["loss", "relative"]
    GRANULARITY: Literal["element", "unit"]
    NEEDS: frozenset[str]
    Options: type[BaseModel]


class ElementImportance(Importance, Protocol):
    """Removes single weights."""

    def prune(self, layers: Sequence[Layer], sparsity: float, options: Any) -> Iterator[Pruned]: ...


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

"""Importances: each file of this folder says what is removed first. Its name is the method's name in the plan.

A file has
UNIT         'loss': its scores estimate an increase of the loss; 'relative': they only rank
GRANULARITY  'element': `scores` and `prune`, see `ElementImportance`
             'unit': `scores(group, senses, options)` returns how important each unit of a group is; `Options` extend
             `UnitOptions`
NEEDS        what it cannot do without: frozenset of 'calibration', and 'labels' of these samples with a loss
ALLOCATIONS  how layers, or groups of units, may share what is removed, as named in `allocation` and `unit_allocation`;
             the first is the default. 'global' is there only where scores of different layers compare
Options      its options in the plan, a frozen pydantic model
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from pipeline.pruning.calibration import Moments
from pipeline.pruning.granularity import Granularity
from pipeline.pruning.layer import Layer, Pruned, Quota
from pipeline.pruning.scale import MEANING, Scale
from pipeline.pruning.surgery.groups import Consumer, Group


class Importance(Protocol):
    """What every importance is."""

    UNIT: Literal["loss", "relative"]
    GRANULARITY: Literal["element", "unit"]
    NEEDS: frozenset[str]
    ALLOCATIONS: tuple[str, ...]
    Options: type[BaseModel]


class ElementImportance(Importance, Protocol):
    """Removes weights, or blocks of them.

    `scores` are shaped as `granularity.grid`; what has the lowest is to go first. They are asked for before any layer
    is pruned, and only to share out among the layers. `prune` takes from the layer, as the model is by then, what its
    quota says; it is None where the granularity's pattern says it.
    """

    def scores(self, layer: Layer, granularity: Granularity, options: Any) -> NDArray[np.floating]: ...

    def prune(self, layer: Layer, granularity: Granularity, quota: Quota | None, options: Any) -> Pruned: ...


class HessianOptions(BaseModel):
    """What every method that weighs single weights by Hessians lets the plan say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    calibration_samples: int = Field(
        512, ge=1, description="training samples whose activations make the Hessian"
    )
    scale: Scale = Field("sensitivity", description=MEANING)


class UnitOptions(BaseModel):
    """What every method that removes whole units lets the plan say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    multiple: int = Field(
        8,
        ge=1,
        description="units are kept in multiples of this, as processors like them, never fewer than asked",
    )
    calibration_samples: int = Field(
        512,
        ge=0,
        description="training inputs by which the layers that read the units are solved anew; 0: none are",
    )
    damping: float = Field(
        1e-3,
        ge=1e-6,
        le=1,
        description="where layers are reconstructed: added to a Hessian's diagonal, as a share of its mean",
    )


# Called, what enters a layer, (n, P, d) with a last one for a bias, and the second derivatives, by Gauss-Newton, of the
# distance at the model's outputs by what leaves it, (n, P, r), in batches; P are the layer's positions.
Curvatures = Callable[[], Iterator[tuple[NDArray[np.floating], NDArray[np.floating]]]]


class Senses(Protocol):
    """What the calibration samples say about a layer, on the model as trained; for methods that need them."""

    def moments(self, layer: str) -> Moments | None:
        """Of its inputs, and of a last one for a bias that it may have; None where it is no product with a kernel."""

    def sensitivity(self, layer: str) -> NDArray[np.float64]:
        """Of each of its outputs (r,): how much the squared outputs of the model depend on it."""

    def curvatures(self, layer: str) -> Curvatures | None:
        """Of its outputs before the activation; None where it is not Dense or a plain convolution."""

    def gates(self, consumer: Consumer) -> NDArray[np.float64]:
        """By how much each sample's training loss grows with each row of the kernel, to first order: the row's product
        with its gradient, (n, fan_in). For methods that need labels.
        """


class UnitImportance(Importance, Protocol):
    """Removes whole units."""

    def scores(self, group: Group, senses: Senses, options: Any) -> NDArray[np.floating] | None:
        """(units,): those with the lowest leave first. None where the method cannot judge them."""


def names() -> list[str]:
    """The importances there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Importance:
    """The importance `name`. Raises `ValueError` for an unknown one."""
    if name not in names():
        raise ValueError(f"unknown pruning method {name!r}; known: {', '.join(names())}")
    return cast(Importance, importlib.import_module(f"{__name__}.{name}"))

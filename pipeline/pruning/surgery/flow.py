"""Where the units of a model flow: labels on its tensors and its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from pipeline.models.graph import Call, Tensor
from pipeline.pruning.surgery.labels import Labels, LabelSets

Role = Literal["produces", "biases", "carries", "consumes"]
Path = tuple[str, ...]


class NotFollowedError(Exception):
    """Units cannot be followed through a call; the text is a sentence that says why."""


@dataclass(frozen=True)
class Layout:
    """The labels (size of the axis,) along the one axis, counted from the batch, of a tensor that has units."""

    axis: int
    labels: Labels


@dataclass(frozen=True)
class Place:
    """An axis of weight number `weight` of a layer, with the label of each of its positions.

    The layer 'produces' these units, or has 'biases' of theirs; 'carries' a parameter of each; or 'consumes' them:
    then the axes `rows` of the kernel together are its inputs, the others its outputs.
    """

    layer: str
    weight: int
    axis: int
    labels: Labels
    role: Role
    rows: tuple[int, ...] = ()


@dataclass
class Flow:
    """What the rules have found out: layouts by tensor, places and options by layer.

    An option is the number of its labels that stay; within a tuple, labels are, and all else is as it was.
    `made` are the units of each layer's own, by what they are; `whole` says why a layer is left whole.
    """

    sets: LabelSets = field(default_factory=LabelSets)
    layouts: dict[int, Layout] = field(default_factory=dict)
    places: dict[tuple[str, int, int], Place] = field(default_factory=dict)
    options: dict[str, dict[Path, Any]] = field(default_factory=dict)
    made: dict[str, dict[str, Labels]] = field(default_factory=dict)
    widths: dict[str, Labels] = field(default_factory=dict)
    whole: dict[str, str] = field(default_factory=dict)

    def of(self, layer: str) -> list[Place]:
        """The places of one layer."""
        return [place for place in self.places.values() if place.layer == layer]

    def leave_whole(self, call: Call, reason: str) -> None:
        """Pin all that the call reads, all that its layer holds, and what comes out of it."""
        self.whole.setdefault(call.node, reason)
        for tensor in tensors(call.arguments):
            self.pin(tensor, reason)
        for labels in (
            *(place.labels for place in self.of(call.node)),
            *self.made.get(call.node, {}).values(),
        ):
            self.sets.pin(labels, reason)
        for tensor in call.outputs:
            size = tensor.shape[-1] if len(tensor.shape) > 1 else None
            labels = self.sets.new(size or 0)
            self.sets.pin(labels, reason)
            self.layouts[tensor.key] = Layout(len(tensor.shape) - 1, labels)
            self.widths.setdefault(call.node, labels)

    def pin(self, tensor: Tensor, reason: str) -> None:
        """The units of the tensor have to stay."""
        self.sets.pin(self.layouts[tensor.key].labels, reason)


@dataclass
class Site:
    """One call as the rules see it: the layer's `kind`, `config` and weights' `shapes`, and what it is called with.

    Rules say through it what is read, held and given; what they do not read of the arguments is pinned.
    """

    flow: Flow
    call: Call
    kind: str
    config: Mapping[str, Any]
    shapes: list[tuple[int, ...]]
    path: Path = ()
    read: set[int] = field(default_factory=set)

    @property
    def name(self) -> str:
        """The layer's name."""
        return self.call.node

    @property
    def output(self) -> Tensor:
        """The one tensor that comes out. Raises `NotFollowedError` where there are several."""
        if len(self.call.outputs) != 1:
            raise self.not_followed()
        return self.call.outputs[0]

    def within(self, key: str) -> Site:
        """The wrapped layer under `key` of the config."""
        inner = self.config[key]
        return replace(
            self, kind=inner["class_name"], config=inner["config"], path=(*self.path, key, "config")
        )

    def not_followed(self) -> NotFollowedError:
        """What is said of layers that no rule can follow."""
        return NotFollowedError(
            f"The units feed {self.name!r}, a {self.kind}, through which units are not followed."
        )

    def entering(self, argument: str | None = None) -> tuple[Tensor, Layout]:
        """The one tensor under the argument, or among all of them, and its layout."""
        given = self.call.arguments if argument is None else self.call.arguments.get(argument)
        found = list(tensors(given))
        if len(found) != 1:
            raise self.not_followed()
        return found[0], self.layout(found[0])

    def layout(self, tensor: Tensor) -> Layout:
        """The layout of a tensor, which is thereby read."""
        self.read.add(tensor.key)
        return self.flow.layouts[tensor.key]

    def last(self, argument: str | None = None) -> Labels:
        """The labels along the last axis of the tensor under the argument. Raises where its units lie elsewhere."""
        tensor, layout = self.entering(argument)
        if layout.axis != len(tensor.shape) - 1 or len(layout.labels) != tensor.shape[-1]:
            raise NotFollowedError(f"{self.name!r} works along another axis than that of the units.")
        return layout.labels

    def units(self, count: int, what: str = "units") -> Labels:
        """The layer's own units, the same at every call."""
        made = self.flow.made.setdefault(self.name, {})
        if what not in made:
            made[what] = self.flow.sets.new(count)
        return made[what]

    def couple(self, first: Labels, second: Labels) -> None:
        """first[i] and second[i] are the same unit."""
        if first.shape != second.shape:
            raise self.not_followed()
        self.flow.sets.unite(first, second)

    def hold(self, role: Role, weight: int, axis: int, labels: Labels, rows: tuple[int, ...] = ()) -> None:
        """The axis of the weight has these labels; at a second call they are coupled with those of the first."""
        if weight >= len(self.shapes) or len(labels) != self.shapes[weight][axis]:
            raise NotFollowedError(
                f"The weights of {self.name!r} are not those of a {self.kind} as it is known."
            )
        axis %= len(self.shapes[weight])
        key = (self.name, weight, axis)
        known = self.flow.places.setdefault(key, Place(*key, labels, role, rows))
        self.couple(known.labels, labels)

    def option(self, key: str, value: Labels | tuple[Any, ...]) -> None:
        """The option follows from the labels in `value`; a second call has to agree."""
        options = self.flow.options.setdefault(self.name, {})
        known = options.setdefault((*self.path, key), value)
        if isinstance(value, tuple):
            if len(known) != len(value):
                raise self.not_followed()
            for one, other in zip(known, value, strict=True):
                if isinstance(one, np.ndarray) != isinstance(other, np.ndarray):
                    raise self.not_followed()
                if isinstance(one, np.ndarray):
                    self.couple(one, other)
                elif one != other:
                    raise self.not_followed()
        else:
            self.couple(known, value)

    def give(self, labels: Labels, axis: int = -1) -> None:
        """Every output has these labels along the axis."""
        for tensor in self.call.outputs:
            if tensor.shape[axis] != len(labels):
                raise self.not_followed()
            self.flow.layouts[tensor.key] = Layout(axis % len(tensor.shape), labels)
        self.flow.widths.setdefault(self.name, labels)


Rule = Callable[[Site], None]


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in an argument, or in all of them, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors(each)

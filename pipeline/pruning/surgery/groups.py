"""Groups: units that can leave, with all that belongs to them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.pruning.surgery.flow import Flow, Place
from pipeline.pruning.surgery.labels import Labels

Array = NDArray[Any]
Weights = Mapping[str, Sequence[Array]]


@dataclass(frozen=True)
class Producer:
    """A layer that makes the units: what goes into each, `weight` (units, fan_in), and its `bias` (units, 0 or more).

    Of a recurrent unit all gates are in its row, with what they read of the other units. `columns` (units, 1 or more)
    are where the units lie in the first weight.
    """

    layer: str
    weight: Array
    bias: Array
    columns: NDArray[np.intp]


@dataclass(frozen=True)
class Consumer:
    """A layer that reads the units: its weight number `index` as the matrix `weight` (fan_in, outputs).

    Of unit i it reads the rows `rows[i]`, (units, k): more than one after a Flatten, or in a convolution. The masked
    model is the one with these rows zero. `axes` are the kernel's, in the matrix's order.
    """

    layer: str
    index: int
    rows: NDArray[np.intp]
    weight: Array
    axes: tuple[int, ...]

    def without(self, units: NDArray[np.intp], kernel: Array) -> Array:
        """The kernel as it is now, with nothing read of these units."""
        turned = kernel.transpose(self.axes)
        matrix = turned.reshape(self.weight.shape).copy()
        matrix[self.rows[units]] = 0
        return matrix.reshape(turned.shape).transpose(np.argsort(self.axes))


@dataclass(frozen=True)
class Group:
    """Units that may leave, each by itself, from the same layers; a unit leaves all of them at once.

    `name` is that of the first producer, and of a part of it, such as 'attention/heads'. `labels` are the units'.
    `producers` make the units, `followers` carry parameters of theirs, `consumers` read them.
    """

    name: str
    what: str
    labels: Labels
    producers: tuple[Producer, ...]
    followers: tuple[str, ...]
    consumers: tuple[Consumer, ...]

    @property
    def size(self) -> int:
        """How many units there are."""
        return len(self.labels)


def groups(flow: Flow, weights: Weights) -> list[Group]:
    """The groups of a model, whose layers' weights are `weights`, in the order in which it runs.

    Two units are of one group when they have as many positions in the same places.
    """
    places = list(flow.places.values())
    roots = {id(place): flow.sets.roots(place.labels) for place in places}
    signatures: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for number, place in enumerate(places):
        for root, count in zip(*np.unique(roots[id(place)], return_counts=True), strict=True):
            signatures[int(root)].append((number, int(count)))
    alike: dict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
    for root in sorted(signatures):
        if flow.sets.why_pinned(root) is None:
            alike[tuple(signatures[root])].append(root)
    found: list[Group] = []
    for signature, members in alike.items():
        labels = np.array(members, np.intp)
        own = [places[number] for number, _ in signature]
        name, what = _name(flow, own, labels, {group.name for group in found})
        producers = [place for place in own if place.role in ("produces", "biases")]
        found.append(
            Group(
                name=name,
                what=what,
                labels=labels,
                producers=tuple(
                    _producer(
                        layer, [place for place in producers if place.layer == layer], roots, labels, weights
                    )
                    for layer in dict.fromkeys(place.layer for place in producers)
                ),
                followers=tuple(dict.fromkeys(place.layer for place in own if place.role == "carries")),
                consumers=tuple(
                    _consumer(place, positions(roots[id(place)], labels), weights)
                    for place in own
                    if place.role == "consumes"
                ),
            )
        )
    return found


def positions(roots: Labels, labels: Labels) -> Labels:
    """Where along an axis with these roots the units lie: (units, positions of each), as many of every unit."""
    order = np.argsort(roots, kind="stable")
    return order[np.isin(roots[order], labels)].reshape(len(labels), -1)


def _name(flow: Flow, places: list[Place], labels: Labels, taken: set[str]) -> tuple[str, str]:
    """A group's name and what its units are called."""
    makers = list(dict.fromkeys(place.layer for place in places if place.role == "produces"))
    first = makers[0]
    what = next(
        what for what, made in flow.made[first].items() if np.isin(flow.sets.roots(made), labels).any()
    )
    ending = "" if what == "units" else f"/{what}"
    name = first + ending
    if name in taken:
        name = "+".join(makers) + ending
    number = 2
    while name in taken:
        name, number = f"{first}{ending}#{number}", number + 1
    return name, what


def _producer(
    layer: str, places: list[Place], roots: Mapping[int, Labels], labels: Labels, weights: Weights
) -> Producer:
    parts: dict[str, list[Array]] = {"produces": [], "biases": []}
    columns = [positions(roots[id(place)], labels) for place in places]
    for place, where in zip(places, columns, strict=True):
        first = np.moveaxis(weights[layer][place.weight], place.axis, 0)
        parts[place.role].append(first[where].reshape(len(labels), -1))
    nothing = [np.empty((len(labels), 0), np.float32)]
    weight, bias = (np.concatenate(parts[role] or nothing, axis=1) for role in ("produces", "biases"))
    return Producer(layer, weight, bias, columns[0])


def _consumer(place: Place, where: Labels, weights: Weights) -> Consumer:
    """The kernel as a matrix, and the rows of each unit in it."""
    kernel = weights[place.layer][place.weight]
    axes = (*place.rows, *(axis for axis in range(kernel.ndim) if axis not in place.rows))
    inputs = [kernel.shape[axis] for axis in place.rows]
    fan_in = int(np.prod(inputs))
    numbers = np.moveaxis(np.arange(fan_in).reshape(inputs), place.rows.index(place.axis), 0)
    rows = numbers[where].reshape(len(where), -1)
    return Consumer(place.layer, place.weight, rows, kernel.transpose(axes).reshape(fan_in, -1), axes)

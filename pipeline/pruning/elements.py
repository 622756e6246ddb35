"""Removing weights from the layers of a model: who gives how much, then layer after layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipeline.pruning.allocation import Request, quotas
from pipeline.pruning.budget import Fixed
from pipeline.pruning.importance import ElementImportance
from pipeline.pruning.layer import Layer, Pruned, Quota, kept
from pipeline.pruning.rules import told


def prune_layers(
    layers: Sequence[Layer], method: ElementImportance, options: Any, request: Request
) -> Iterator[Pruned]:
    """Each layer pruned, in their order, before the next is looked at for the last time.

    Raises `ValueError`, before any layer is pruned, for a request that cannot be met.
    """
    taking = [layer for layer in layers if request.of(layer).skipped_by is None]
    whole = [layer for layer in layers if request.of(layer).skipped_by is not None]
    request = replace(request, fixed=_with(request.fixed, whole))
    given = _given(taking, method, options, request)
    for layer in layers:
        terms = request.of(layer)
        if terms.skipped_by is not None:
            yield kept(layer, f"The rule for {terms.skipped_by!r} leaves it whole.")
            continue
        found = method.prune(layer, request.granularity, given.get(layer.name), options)
        yield _saying(found, told(terms, "weights"))


def _given(
    layers: Sequence[Layer], method: ElementImportance, options: Any, request: Request
) -> Mapping[str, Quota]:
    """The quota of each layer; none where the pattern says what goes."""
    granularity = request.granularity
    if granularity.pattern is None:
        return quotas(layers, request, lambda layer: method.scores(layer, granularity, options))
    for layer in layers:
        d, r = layer.weight.shape
        left = (d - granularity.removed_by_pattern(d)) * r
        if left < request.of(layer).min_keep:
            raise ValueError(
                f"{layer.name}: the pattern {granularity.name} leaves {left} of its weights, and a rule keeps "
                f"{request.of(layer).min_keep}; skip the layer, or keep fewer"
            )
    return {}


def _with(fixed: Fixed, layers: Sequence[Layer]) -> Fixed:
    return Fixed(
        fixed.parameters + sum(layer.weight.size for layer in layers),
        fixed.macs + sum(layer.positions * layer.weight.size for layer in layers),
    )


def _saying(found: Pruned, sentences: Sequence[str]) -> Pruned:
    decision = found.decision
    reason = " ".join([decision.reason, *sentences])
    return replace(found, decision=decision.model_copy(update={"reason": reason}))

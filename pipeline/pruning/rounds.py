"""Pruning in rounds: some weights go, those that stay make up for them, and only then do more go.

What a removal costs is judged near the weights as they are, and far from there the judgement is worth little; after
each round it is made anew, on weights that were solved for. The sparsities of the rounds are those of Zhu & Gupta's
schedule, which removes much while that costs little. What a rule gives a layer of its own goes in the first round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pipeline.pruning.prune import PrunedModel
from pipeline.pruning.schedule import gradual_sparsity


def prune_in_rounds(
    model: Any,
    sparsity: float,
    rounds: int,
    prune: Callable[[Any, float], PrunedModel],
    mend: Callable[[PrunedModel], None],
) -> PrunedModel:
    """`model` pruned to `sparsity` by `prune(model, sparsity)`, each round what the one before left.

    `mend(pruned)` moves the weights that stay, in place, after every round but the last. What is zero may come back in
    a later round where that is worth more. Decisions are those of the last round, counted from the weights that
    `model` had; of several rounds without the loss, of which the last one only saw what the others left.
    """
    pruned = prune(model, gradual_sparsity(1, rounds, sparsity))
    if rounds == 1:
        return pruned
    before = {decision.layer: decision for decision in pruned.decisions}
    for each in range(2, rounds + 1):
        mend(pruned)
        pruned = prune(pruned.model, gradual_sparsity(each, rounds, sparsity))
    decisions = [
        decision.model_copy(
            update={"weights_before": before[decision.layer].weights_before, "loss_increase": None}
        )
        for decision in pruned.decisions
    ]
    return replace(pruned, decisions=decisions)

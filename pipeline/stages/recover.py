"""Recovery, a part of the stage `prune`: what the plan asks for once weights or units are gone, cheap first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from pipeline.errors import UserError
from pipeline.models.data import Dataset
from pipeline.models.fitting import loss_for
from pipeline.models.ports import answers, output_ports
from pipeline.models.samples import Samples
from pipeline.plan_pruning import FineTuneSection, PruneBase, RefitHeadSection, RefitSection, SamplesSection
from pipeline.progress import Say
from pipeline.pruning.batch_norm import reestimate
from pipeline.pruning.bias_correction import correct_biases
from pipeline.pruning.decision import LayerDecision
from pipeline.pruning.distillation import Distillation
from pipeline.pruning.head_refit import check_head, refit_head
from pipeline.pruning.output_refit import check_outputs, refit_outputs
from pipeline.pruning.prune import PrunedModel
from pipeline.pruning.recovery import fine_tune


class Recovery(BaseModel):
    """The steps that are taken, None for those that are not."""

    model_config = ConfigDict(frozen=True)

    bias_correction: SamplesSection | None = None
    batch_norm: SamplesSection | None = None
    refit_head: RefitHeadSection | None = None
    refit: RefitSection | None = None
    fine_tune: FineTuneSection | None = None


def recovery(section: PruneBase) -> Recovery:
    """What the plan asks for."""
    return Recovery(
        bias_correction=section.bias_correction if section.bias_correction.samples else None,
        batch_norm=section.batch_norm if section.batch_norm.samples else None,
        refit_head=section.refit_head if section.refit_head.steps else None,
        refit=section.refit if section.refit.steps else None,
        fine_tune=section.fine_tune if section.fine_tune.epochs else None,
    )


@dataclass(frozen=True)
class Recoverer:
    """Takes the steps, on pruned copies of the model `dense`, whose weights are moved in place.

    Its methods raise `UserError` for what a step cannot do.
    """

    steps: Recovery
    dense: Any
    dataset: Dataset
    say: Say

    def check(self, loss: str | Mapping[str, str] | None) -> None:
        """Whether the steps can be taken on such a model, and training lower `loss`: before any work."""
        checks: Mapping[str, Callable[[], None]] = {
            "refit_head": lambda: check_head(self.dense),
            "refit": lambda: check_outputs(self.dense, shuffled(self.dataset, 1)),
        }
        for key, check in checks.items():
            if getattr(self.steps, key) is None:
                continue
            try:
                check()
            except ValueError as error:
                raise UserError(f"prune.{key}: {error}") from error
        if self.steps.fine_tune is not None and loss is not None:
            loss_for(self.dense, loss, self.dataset.y_train)

    def without_labels(self, pruned: PrunedModel) -> PrunedModel:
        """All steps but training. The decisions say what became of each layer."""
        pruned = self._means_restored(pruned)
        self._refit_head(pruned)
        self.refit(pruned)
        return pruned

    def refit(self, pruned: PrunedModel) -> None:
        """The step `refit`; between the rounds of pruning, too."""
        section = self.steps.refit
        if section is None:
            return
        samples = shuffled(self.dataset, section.samples)
        try:
            distances = refit_outputs(self.dense, pruned.model, pruned.masks, samples, section.steps)
        except ValueError as error:
            raise UserError(f"prune.refit: {error}") from error
        self._say_distances("refit", distances)

    def train(self, pruned: PrunedModel, loss: str | Mapping[str, str]) -> PrunedModel:
        """The step `fine_tune`, which lowers `loss`. Where it prunes anew, gradually, the decisions say so."""
        fit = self.steps.fine_tune
        if fit is None:
            return pruned
        dense, data, say = self.dense, self.dataset, self.say
        if fit.schedule == "gradual":
            pruned.model.set_weights(dense.get_weights())
        distillation = None
        if fit.distill:
            activations = [port.activation for port in output_ports(dense)]
            distillation = Distillation(
                answers(dense, data.x_train), activations, fit.distill, fit.temperature
            )
        try:
            fine_tune(
                pruned.model,
                pruned.masks,
                data.x_train,
                data.y_train,
                loss=loss_for(pruned.model, loss, data.y_train),
                epochs=fit.epochs,
                batch_size=fit.batch_size,
                learning_rate=fit.learning_rate,
                seed=fit.seed,
                on_epoch=lambda epoch, loss: say(
                    f"fine-tuning, epoch {epoch + 1} of {fit.epochs}, loss {loss:.4f}"
                ),
                decay=fit.decay == "cosine",
                gradual=fit.schedule == "gradual",
                distillation=distillation,
            )
        except ValueError as error:
            raise UserError(f"prune.fine_tune: {error}") from error
        if fit.schedule != "gradual":
            return pruned
        return replace(pruned, decisions=[_gradually(each) for each in pruned.decisions])

    def _means_restored(self, pruned: PrunedModel) -> PrunedModel:
        """The biases, then the batch-norm statistics."""
        steps: Mapping[str, Callable[[Samples], dict[str, str]]] = {
            "bias_correction": lambda x: correct_biases(self.dense, pruned.model, x, pruned.outputs),
            "batch_norm": lambda x: reestimate(self.dense, pruned.model, x),
        }
        decisions = pruned.decisions
        for key, step in steps.items():
            section: SamplesSection | None = getattr(self.steps, key)
            if section is None:
                continue
            try:
                told = step(shuffled(self.dataset, section.samples))
            except ValueError as error:
                raise UserError(f"prune.{key}: {error}") from error
            for layer, sentence in told.items():
                self.say(f"{layer}: {sentence}")
            # A kernel, 'lstm/kernel', is told what became of its layer.
            decisions = [_with_sentence(each, told.get(each.layer.split("/")[0])) for each in decisions]
        return replace(pruned, decisions=decisions)

    def _refit_head(self, pruned: PrunedModel) -> None:
        section = self.steps.refit_head
        if section is None:
            return
        samples = shuffled(self.dataset, section.samples)
        try:
            distances = refit_head(
                *(self.dense, pruned.model, pruned.masks, samples, section.steps, section.temperature)
            )
        except ValueError as error:
            raise UserError(f"prune.refit_head: {error}") from error
        if not distances:
            self.say(
                "refit of the head: no Dense layer at the model's end lost anything, so nothing was moved"
            )
        self._say_distances("refit of the head", distances)

    def _say_distances(self, what: str, distances: Sequence[float]) -> None:
        if distances:
            self.say(
                f"{what} in {len(distances) - 1} steps, distance to the unpruned outputs"
                f" {distances[0]:.3g} before, {distances[-1]:.3g} after"
            )


def shuffled(dataset: Dataset, count: int) -> Samples:
    """So many training inputs in a random order with a fixed seed: data often comes sorted by class."""
    return dataset.x_train[order(dataset)[:count]]


def order(dataset: Dataset) -> NDArray[np.int64]:
    """That order."""
    return np.random.default_rng(0).permutation(len(dataset.x_train))


def _gradually(decision: LayerDecision) -> LayerDecision:
    """What the method said of a layer holds no longer when training chose anew."""
    if decision.action != "pruned":
        return decision
    share = 1 - decision.weights_after / max(decision.weights_before, 1)
    reason = f"While it was trained its smallest weights went bit by bit, {share:.1%} of them in the end."
    return decision.model_copy(update={"reason": reason, "loss_increase": None, "damping": None})


def _with_sentence(decision: LayerDecision, sentence: str | None) -> LayerDecision:
    return decision.model_copy(update={"reason": f"{decision.reason} {sentence}"}) if sentence else decision

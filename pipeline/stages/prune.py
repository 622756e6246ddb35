"""Prune: the chosen method over the baseline, recovery, and the metric before and after."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, SerializeAsAny

from pipeline.artifacts import Artifact, Store
from pipeline.errors import UserError
from pipeline.models import data, metrics
from pipeline.models.fitting import check_fits, loss_for, output_activation
from pipeline.models.load import load_model, save_model
from pipeline.models.quiet import keras_module
from pipeline.plan import PlanBase
from pipeline.plan_pruning import FineTuneSection, RefitSection, SamplesSection
from pipeline.progress import Say
from pipeline.pruning import importance
from pipeline.pruning.batch_norm import reestimate
from pipeline.pruning.bias_correction import correct_biases
from pipeline.pruning.budget import Budget
from pipeline.pruning.distillation import Distillation
from pipeline.pruning.output_refit import refit_outputs
from pipeline.pruning.prune import PrunedModel, prune_model
from pipeline.pruning.recovery import fine_tune
from pipeline.pruning.rounds import prune_in_rounds
from pipeline.pruning.rules import Rule

TOOLS = ("tensorflow", "keras", "numpy", "scipy")


class Options(BaseModel):
    """What this stage sees of the plan: of the methods' options only those of the chosen one."""

    model_config = ConfigDict(frozen=True)

    method: str
    sparsity: float | None
    budget: Budget | None
    granularity: str
    allocation: str
    rules: tuple[Rule, ...]
    method_options: SerializeAsAny[BaseModel]
    bias_correction: SamplesSection | None
    batch_norm: SamplesSection | None
    refit: RefitSection | None
    fine_tune: FineTuneSection | None
    loss: str | None
    metric: str


def options(plan: PlanBase) -> Options:
    """The part of the plan that this stage sees."""
    tuning = plan.prune.fine_tune if plan.prune.fine_tune.epochs else None
    return Options(
        method=plan.prune.method,
        sparsity=plan.prune.share,
        budget=plan.prune.budget,
        granularity=plan.prune.granularity,
        allocation=plan.prune.allocation,
        rules=plan.prune.rules,
        method_options=plan.prune.options,
        bias_correction=plan.prune.bias_correction if plan.prune.bias_correction.samples else None,
        batch_norm=plan.prune.batch_norm if plan.prune.batch_norm.samples else None,
        refit=plan.prune.refit if plan.prune.refit.steps else None,
        fine_tune=tuning,
        loss=plan.loss if tuning else None,
        metric=plan.metric.source,
    )


def loaded_by_name(options: Options) -> list[Path]:
    """The source files that imports do not show: the method's own."""
    return [Path(str(importlib.import_module(f"{importance.__name__}.{options.method}").__file__))]


def run(options: Options, inputs: Mapping[str, Artifact], store: Store, say: Say) -> dict[str, Artifact]:
    """Inputs: `model`, `dataset`, and where the user wrote them `source` and `metric`. Outputs: `model`, `report`."""
    keras_module().utils.set_random_seed(options.fine_tune.seed if options.fine_tune else 0)
    model = load_model(inputs["model"], inputs.get("source"))
    dataset = data.load(inputs["dataset"].path)
    check_fits(model, dataset)
    before = _metric(options, inputs, model, dataset)
    calibration = _calibration(options, dataset)
    pruned = _pruned(options, model, calibration, dataset, say)
    pruned = _means_restored(options, model, pruned, dataset, say)
    _refit(options.refit, model, pruned, dataset, say)
    report: dict[str, Any] = {
        "decisions": [decision.model_dump() for decision in pruned.decisions],
        "metric_before": before,
        "metric_pruned": _metric(options, inputs, pruned.model, dataset),
    }
    report["metric_after"] = report["metric_pruned"]
    if options.fine_tune is not None and options.loss is not None:
        _fine_tune(options.fine_tune, options.loss, model, pruned, dataset, say)
        report["metric_after"] = _metric(options, inputs, pruned.model, dataset)
    report["parameters_before"] = int(model.count_params())
    report["parameters_after"] = int(pruned.model.count_params())
    say(f"{options.metric} {before:.4f} before, {report['metric_after']:.4f} after")
    with store.new("keras") as path:
        save_model(pruned.model, path)
        return {"model": store.put_file("keras", path), "report": store.put_json(report)}


def _pruned(
    options: Options, dense: Any, calibration: np.ndarray | None, dataset: data.Dataset, say: Say
) -> PrunedModel:
    def prune(model: Any, sparsity: float | None) -> PrunedModel:
        try:
            return prune_model(
                model,
                options.method,
                sparsity,
                options.method_options,
                calibration,
                say,
                budget=options.budget,
                granularity=options.granularity,
                allocation=options.allocation,
                rules=options.rules,
            )
        except ValueError as error:
            raise UserError(f"prune: {error}") from error

    if options.refit is None or options.refit.rounds == 1 or options.sparsity is None:
        return prune(dense, options.sparsity)
    return prune_in_rounds(
        dense,
        options.sparsity,
        options.refit.rounds,
        prune,
        lambda pruned: _refit(options.refit, dense, pruned, dataset, say),
    )


def _means_restored(
    options: Options, dense: Any, pruned: PrunedModel, dataset: data.Dataset, say: Say
) -> PrunedModel:
    """The biases, then the batch-norm statistics, as the plan asks; decisions say what became of each layer."""
    steps: Mapping[str, Callable[[np.ndarray], dict[str, str]]] = {
        "bias_correction": lambda x: correct_biases(dense, pruned.model, x, pruned.outputs),
        "batch_norm": lambda x: reestimate(dense, pruned.model, x),
    }
    decisions = pruned.decisions
    for key, step in steps.items():
        section: SamplesSection | None = getattr(options, key)
        if section is None:
            continue
        try:
            told = step(_shuffled(dataset)[: section.samples])
        except ValueError as error:
            raise UserError(f"prune.{key}: {error}") from error
        for layer, sentence in told.items():
            say(f"{layer}: {sentence}")
        decisions = [
            each.model_copy(update={"reason": f"{each.reason} {told[each.layer]}"})
            if each.layer in told
            else each
            for each in decisions
        ]
    return replace(pruned, decisions=decisions)


def _refit(
    section: RefitSection | None, dense: Any, pruned: PrunedModel, dataset: data.Dataset, say: Say
) -> None:
    if section is None:
        return
    samples = _shuffled(dataset)[: section.samples]
    try:
        distances = refit_outputs(dense, pruned.model, pruned.masks, samples, section.steps)
    except ValueError as error:
        raise UserError(f"prune.refit: {error}") from error
    if distances:
        say(
            f"refit in {len(distances) - 1} steps, distance to the unpruned outputs"
            f" {distances[0]:.3g} before, {distances[-1]:.3g} after"
        )


def _metric(options: Options, inputs: Mapping[str, Artifact], model: Any, dataset: data.Dataset) -> float:
    outputs = np.asarray(model.predict(dataset.x_test, verbose=0))
    return metrics.evaluate(options.metric, inputs.get("metric"), dataset.y_test, outputs)


def _calibration(options: Options, dataset: data.Dataset) -> np.ndarray | None:
    """The samples that the method's options ask for."""
    wanted: int = getattr(options.method_options, "calibration_samples", 0)
    return _shuffled(dataset)[:wanted] if wanted else None


def _shuffled(dataset: data.Dataset) -> np.ndarray:
    """The training inputs in a random order with a fixed seed: data often comes sorted by class."""
    return dataset.x_train[np.random.default_rng(0).permutation(len(dataset.x_train))]


def _fine_tune(
    fit: FineTuneSection, loss: str, dense: Any, pruned: PrunedModel, dataset: data.Dataset, say: Say
) -> None:
    gradual = fit.schedule == "gradual"
    if gradual:
        pruned.model.set_weights(dense.get_weights())
    distillation = None
    if fit.distill:
        answers = np.asarray(dense.predict(dataset.x_train, verbose=0))
        distillation = Distillation(answers, output_activation(dense), fit.distill, fit.temperature)
    try:
        fine_tune(
            pruned.model,
            pruned.masks,
            dataset.x_train,
            dataset.y_train,
            loss=loss_for(pruned.model, loss, dataset.y_train),
            epochs=fit.epochs,
            batch_size=fit.batch_size,
            learning_rate=fit.learning_rate,
            seed=fit.seed,
            on_epoch=lambda epoch, loss: say(
                f"fine-tuning, epoch {epoch + 1} of {fit.epochs}, loss {loss:.4f}"
            ),
            decay=fit.decay == "cosine",
            gradual=gradual,
            distillation=distillation,
        )
    except ValueError as error:
        raise UserError(f"prune.fine_tune: {error}") from error

"""Prune: the chosen method over the baseline, recovery, and the metric before and after."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, SerializeAsAny

from pipeline.artifacts import Artifact, Store
from pipeline.errors import UserError
from pipeline.models import data, metrics
from pipeline.models.fitting import check_fits, loss_for
from pipeline.models.load import load_model, save_model
from pipeline.models.ports import answers
from pipeline.models.quiet import keras_module
from pipeline.models.sample_gradients import Objective
from pipeline.models.samples import Samples
from pipeline.plan import PlanBase
from pipeline.plan_pruning import NONE
from pipeline.progress import Say
from pipeline.pruning import importance
from pipeline.pruning.budget import Budget
from pipeline.pruning.prune import PrunedModel, left_whole, prune_model
from pipeline.pruning.rounds import prune_in_rounds
from pipeline.pruning.rules import Rule
from pipeline.sparse_tflite.float_model import read_float_model
from pipeline.stages.recover import Recoverer, Recovery, order, recovery, shuffled

TOOLS = ("tensorflow", "keras", "numpy", "scipy")


class Options(BaseModel):
    """What this stage sees of the plan: of the methods' options only those of the chosen one."""

    model_config = ConfigDict(frozen=True)

    method: str
    method_options: SerializeAsAny[BaseModel]
    metric: str
    output: str | None
    sparsity: float | None = None
    budget: Budget | None = None
    granularity: str = "element"
    allocation: str = "auto"
    rules: tuple[Rule, ...] = ()
    recovery: Recovery = Recovery()
    loss: str | dict[str, str] | None = None


def options(plan: PlanBase) -> Options:
    """The part of the plan that this stage sees: of its section nothing when nothing is pruned."""
    section = plan.prune
    if not section.prunes:
        return Options(
            method=section.method,
            method_options=section.options,
            metric=plan.metric.source,
            output=plan.metric.output,
        )
    return Options(
        method=section.method,
        method_options=section.options,
        metric=plan.metric.source,
        output=plan.metric.output,
        sparsity=section.share,
        budget=section.budget,
        granularity=section.granularity,
        allocation=section.allocation,
        rules=section.rules,
        recovery=recovery(section),
        loss=plan.loss if section.fine_tune.epochs or section.needs_labels else None,
    )


def loaded_by_name(options: Options) -> list[Path]:
    """The source files that imports do not show: the method's own."""
    if options.method == NONE:
        return []
    return [Path(str(importlib.import_module(f"{importance.__name__}.{options.method}").__file__))]


def run(options: Options, inputs: Mapping[str, Artifact], store: Store, say: Say) -> dict[str, Artifact]:
    """Inputs: `model`, `dataset`, and where the user wrote them `source` and `metric`. Outputs: `model`, `report`."""
    if options.method == NONE:
        return _leave_whole(options, inputs, store, say)
    tuning = options.recovery.fine_tune
    keras_module().utils.set_random_seed(tuning.seed if tuning else 0)
    model = load_model(inputs["model"], inputs.get("source"))
    dataset = data.load(inputs["dataset"].path)
    check_fits(model, dataset)
    before = _metric(options, inputs, answers(model, dataset.x_test), dataset)
    recoverer = Recoverer(options.recovery, model, dataset, say)
    recoverer.check(options.loss)
    pruned = recoverer.without_labels(_pruned(options, model, dataset, recoverer, say))
    report: dict[str, Any] = {
        "metric_before": before,
        "metric_pruned": _metric(options, inputs, answers(pruned.model, dataset.x_test), dataset),
    }
    report["metric_after"] = report["metric_pruned"]
    if tuning is not None and options.loss is not None:
        pruned = recoverer.train(pruned, options.loss)
        report["metric_after"] = _metric(options, inputs, answers(pruned.model, dataset.x_test), dataset)
    report["decisions"] = [decision.model_dump() for decision in pruned.decisions]
    report["parameters_before"] = int(model.count_params())
    report["parameters_after"] = int(pruned.model.count_params())
    say(f"{options.metric} {before:.4f} before, {report['metric_after']:.4f} after")
    with store.new("keras") as path:
        save_model(pruned.model, path)
        return {"model": store.put_file("keras", path), "report": store.put_json(report)}


def _pruned(
    options: Options, dense: Any, dataset: data.Dataset, recoverer: Recoverer, say: Say
) -> PrunedModel:
    calibration, objective = _calibration(options, dataset), _objective(options, dense, dataset)

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
                objective=objective,
            )
        except ValueError as error:
            raise UserError(f"prune: {error}") from error

    refit = options.recovery.refit
    if refit is None or refit.rounds == 1 or options.sparsity is None:
        return prune(dense, options.sparsity)
    return prune_in_rounds(dense, options.sparsity, refit.rounds, prune, recoverer.refit)


def _leave_whole(
    options: Options, inputs: Mapping[str, Artifact], store: Store, say: Say
) -> dict[str, Artifact]:
    """The model as it is, a .tflite file perhaps, with the report of a pruning that removed nothing."""
    dataset = data.load(inputs["dataset"].path)
    if inputs["model"].kind == "tflite":
        given = read_float_model(inputs["model"].path)
        outputs, parameters, decisions = given.predict(dataset.x_test), given.parameters, []
    else:
        model = load_model(inputs["model"], inputs.get("source"))
        outputs, parameters = answers(model, dataset.x_test), int(model.count_params())
        decisions = [decision.model_dump() for decision in left_whole(model)]
    metric = _metric(options, inputs, outputs, dataset)
    say(f"nothing is pruned; {options.metric} {metric:.4f}")
    report: dict[str, Any] = {"decisions": decisions}
    report |= dict.fromkeys(("metric_before", "metric_pruned", "metric_after"), metric)
    report |= dict.fromkeys(("parameters_before", "parameters_after"), parameters)
    return {"model": inputs["model"], "report": store.put_json(report)}


def _metric(
    options: Options, inputs: Mapping[str, Artifact], outputs: Samples, dataset: data.Dataset
) -> float:
    return metrics.evaluate(options.metric, inputs.get("metric"), dataset.y_test, outputs, options.output)


def _calibration(options: Options, dataset: data.Dataset) -> Samples | None:
    """The samples that the method's options ask for."""
    wanted = _wanted(options)
    return shuffled(dataset, wanted) if wanted else None


def _objective(options: Options, model: Any, dataset: data.Dataset) -> Objective | None:
    """What training lowers on the calibration samples, for a method that needs labels."""
    if options.loss is None or "labels" not in importance.load(options.method).NEEDS:
        return None
    targets = dataset.y_train[order(dataset)[: _wanted(options)]]
    return Objective(targets, loss_for(model, options.loss, dataset.y_train))


def _wanted(options: Options) -> int:
    return int(getattr(options.method_options, "calibration_samples", 0))

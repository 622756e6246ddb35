"""Data: from wherever the plan says to one file of arrays, and the evaluation set as the device will read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipeline.artifacts import Artifact, Store
from pipeline.errors import UserError
from pipeline.models import data
from pipeline.models.samples import sizes
from pipeline.plan import PlanBase
from pipeline.progress import Say

TOOLS = ("numpy", "scikit-learn")
MIN_EVALUATION = 32


class Options(BaseModel):
    """What this stage sees of the plan."""

    model_config = ConfigDict(frozen=True)

    bundled: str | None
    targets: str
    test_fraction: float
    seed: int
    labels: tuple[str, ...]
    evaluation_samples: int | None


def options(plan: PlanBase) -> Options:
    """The part of the plan that this stage sees; how a file was split is none of it."""
    bundled = plan.data.source.removeprefix("sklearn:") if plan.data.source.startswith("sklearn:") else None
    return Options(
        bundled=bundled,
        targets=plan.data.targets,
        test_fraction=plan.data.test_fraction if bundled else 0,
        seed=plan.data.seed if bundled else 0,
        labels=plan.data.labels,
        evaluation_samples=plan.measure.evaluation_samples,
    )


def run(options: Options, inputs: Mapping[str, Artifact], store: Store, say: Say) -> dict[str, Artifact]:
    """Inputs: `data`, unless it is bundled. Outputs: `dataset`, `report`, and `inputs` and `targets` of the evaluation
    set, of several inputs or outputs each as `inputs/NAME` or `targets/NAME`."""
    if options.bundled:
        dataset = data.load_bundled(options.bundled, options.test_fraction, options.seed)
        if options.targets == "inputs":
            dataset = data.Dataset(dataset.x_train, dataset.x_train, dataset.x_test, dataset.x_test)
    else:
        dataset = data.load_file(inputs["data"], options.targets)
    if len(dataset.x_test) < MIN_EVALUATION:
        raise UserError(
            f"data: {len(dataset.x_test)} evaluation samples (x_test);"
            f" at least {MIN_EVALUATION} are needed to compare answers"
        )
    say(
        f"{len(dataset.x_train)} training and {len(dataset.x_test)} evaluation samples of {sizes(dataset.x_test)}"
    )
    with store.new("dataset") as path:
        dataset.save(path)
        made = {"dataset": store.put_file("dataset", path)}
    report: dict[str, Any] = {
        "labels": list(options.labels or dataset.labels),
        "training_samples": len(dataset.x_train),
    }
    made["report"] = store.put_json(report)
    chosen = data.spread(len(dataset.x_test), options.evaluation_samples)
    for name, samples in (("inputs", dataset.x_test), ("targets", dataset.y_test)):
        made |= data.store_samples(name, samples[chosen], store)
    return made

"""Train: the baseline model. One that came trained is taken as it is, unless the plan asks otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipeline.artifacts import Artifact, Store
from pipeline.models import data
from pipeline.models.fitting import check_fits, check_ports, fit, loss_for
from pipeline.models.load import load_model, save_model
from pipeline.models.quiet import keras_module
from pipeline.plan import PlanBase, TrainSection
from pipeline.progress import Say
from pipeline.sparse_tflite.float_model import read_float_model

TOOLS = ("tensorflow", "keras", "numpy")


class Options(BaseModel):
    """What this stage sees of the plan."""

    model_config = ConfigDict(frozen=True)

    train: TrainSection | None
    loss: str | dict[str, str]


def options(plan: PlanBase) -> Options:
    """The part of the plan that this stage sees: none of the training when there will be none."""
    return Options(train=plan.train if plan.trains else None, loss=plan.loss if plan.trains else "")


def run(options: Options, inputs: Mapping[str, Artifact], store: Store, say: Say) -> dict[str, Artifact]:
    """Inputs: `model` (file or function), `dataset`. Outputs: `model` (.keras, or .tflite as it came), `report`."""
    if inputs["model"].kind == "tflite":
        return _as_it_came(inputs["model"], data.load(inputs["dataset"].path), store)
    keras = keras_module()
    seed = options.train.seed if options.train else 0
    keras.utils.set_random_seed(seed)
    model = load_model(inputs["model"])
    dataset = data.load(inputs["dataset"].path)
    check_fits(model, dataset)
    report: dict[str, Any] = {"trained": options.train is not None, "parameters": int(model.count_params())}
    if options.train is not None:
        loss = loss_for(model, options.loss, dataset.y_train)
        model.compile(optimizer=keras.optimizers.Adam(options.train.learning_rate), loss=loss)
        report["loss"] = fit(model, dataset, options.train.epochs, options.train.batch_size, say)
    with store.new("keras") as path:
        save_model(model, path)
        return {"model": store.put_file("keras", path), "report": store.put_json(report)}


def _as_it_came(model: Artifact, dataset: data.Dataset, store: Store) -> dict[str, Artifact]:
    """A .tflite file is past training."""
    given = read_float_model(model.path)
    check_ports(given.inputs, given.outputs, dataset)
    report = {"trained": False, "parameters": given.parameters}
    return {"model": store.put("tflite", given.content), "report": store.put_json(report)}

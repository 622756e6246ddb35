"""Train: the baseline model. One that came trained is taken as it is, unless the plan asks otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from pipeline.artifacts import Artifact, Store
from pipeline.errors import UserError
from pipeline.models import data
from pipeline.models.load import keras_module, load_model, save_model
from pipeline.plan import PlanBase, TrainSection
from pipeline.progress import Say

TOOLS = ("tensorflow", "keras", "numpy")


class Options(BaseModel):
    """What this stage sees of the plan."""

    model_config = ConfigDict(frozen=True)

    train: TrainSection | None
    loss: str


def options(plan: PlanBase) -> Options:
    """The part of the plan that this stage sees: none of the training when there will be none."""
    came_trained = not plan.model.source.partition(":")[0].endswith(".py")
    wanted = plan.train.when == "always" or (plan.train.when == "auto" and not came_trained)
    return Options(train=plan.train if wanted else None, loss=loss_name(plan))


def loss_name(plan: PlanBase) -> str:
    """The loss that training and fine-tuning lower; `auto` follows the metric."""
    if plan.train.loss != "auto":
        return plan.train.loss
    return {"accuracy": "crossentropy", "auc": "binary_crossentropy", "mse": "mse"}.get(
        plan.metric.source, "compiled"
    )


def run(options: Options, inputs: Mapping[str, Artifact], store: Store, say: Say) -> dict[str, Artifact]:
    """Inputs: `model` (file or function), `dataset`. Outputs: `model` (.keras), `report`."""
    keras = keras_module()
    seed = options.train.seed if options.train else 0
    keras.utils.set_random_seed(seed)
    model = load_model(inputs["model"])
    dataset = data.load(inputs["dataset"].path)
    check_fits(model, dataset)
    report: dict[str, Any] = {"trained": options.train is not None, "parameters": int(model.count_params())}
    if options.train is not None:
        fit = options.train
        loss = loss_for(model, options.loss, dataset.y_train)
        model.compile(optimizer=keras.optimizers.Adam(fit.learning_rate), loss=loss)
        history = model.fit(
            dataset.x_train,
            dataset.y_train,
            epochs=fit.epochs,
            batch_size=fit.batch_size,
            verbose=0,
            callbacks=[epoch_reporter(fit.epochs, say)],
        )
        report["loss"] = [float(value) for value in history.history["loss"]]
        if not np.isfinite(report["loss"]).all():
            raise UserError("train: the loss is not finite; lower train.learning_rate or check the data")
    with store.new("keras") as path:
        save_model(model, path)
        return {"model": store.put_file("keras", path), "report": store.put_json(report)}


def loss_for(model: Any, loss: str, y: np.ndarray) -> Any:
    """The Keras loss that `loss_name` names, for this model's output and these targets."""
    keras = keras_module()
    if loss == "compiled":
        if not getattr(model, "compiled", False):
            raise UserError(
                "train.loss: a metric of your own does not tell the loss; name one, for example 'mse'"
            )
        return model.loss
    linear = _output_activation(model) not in ("softmax", "sigmoid")
    if loss == "crossentropy" and model.output_shape[-1] > 1:
        by_number = y.ndim == 1 or y.shape[1:] == (1,)
        kind = (
            keras.losses.SparseCategoricalCrossentropy if by_number else keras.losses.CategoricalCrossentropy
        )
        return kind(from_logits=linear)
    if loss in ("crossentropy", "binary_crossentropy"):
        return keras.losses.BinaryCrossentropy(from_logits=linear)
    try:
        return keras.losses.get(loss)
    except ValueError:
        raise UserError(f"train.loss: Keras {keras.__version__} knows no loss {loss!r}") from None


def _output_activation(model: Any) -> str:
    last = model.layers[-1]
    activation = getattr(last, "activation", None)
    return getattr(activation, "__name__", "") if activation else type(last).__name__.lower()


def check_fits(model: Any, dataset: data.Dataset) -> None:
    """Raise `UserError` when the model does not take the data's samples."""
    expected, received = tuple(model.input_shape[1:]), dataset.x_train.shape[1:]
    if len(expected) != len(received) or any(
        e not in (None, r) for e, r in zip(expected, received, strict=True)
    ):
        raise UserError(f"model.source: the model takes samples of {expected}, the data has {received}")


def epoch_reporter(epochs: int, say: Say) -> Any:
    """A Keras callback that tells every epoch's loss."""
    keras = keras_module()
    return keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: say(
            f"epoch {epoch + 1} of {epochs}, loss {(logs or {}).get('loss', 0):.4f}"
        )
    )

"""Fitting a Keras model to data: the loss, whether model and data go together, and what is said meanwhile."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.models.data import Dataset
from pipeline.models.quiet import keras_module
from pipeline.progress import Say

AUTO_LOSS = {"accuracy": "crossentropy", "auc": "crossentropy", "mse": "mse"}


def loss_for(model: Any, loss: str, y: np.ndarray) -> Any:
    """The Keras loss of that name, for this model's output and these targets (n, ...).

    `crossentropy` is the binary one for a single output, and else goes by class numbers or one-hot targets.
    Raises `UserError` when targets and output do not go together.
    """
    keras = keras_module()
    outputs = tuple(model.output_shape[1:])
    linear = output_activation(model) not in ("softmax", "sigmoid")
    if loss == "crossentropy" and outputs[-1] > 1:
        if y.size == len(y) * int(np.prod(outputs[:-1])):
            _check_class_numbers(y, outputs[-1])
            return keras.losses.SparseCategoricalCrossentropy(from_logits=linear)
        _check_shape(loss, y, outputs)
        return keras.losses.CategoricalCrossentropy(from_logits=linear)
    if loss in ("crossentropy", "binary_crossentropy"):
        _check_shape(loss, y, outputs)
        _check_class_numbers(y, 2)
        return keras.losses.BinaryCrossentropy(from_logits=linear)
    if loss == "mse":
        _check_shape(loss, y, outputs)
    try:
        return keras.losses.get(loss)
    except ValueError:
        raise UserError(f"train.loss: Keras {keras.__version__} knows no loss {loss!r}") from None


def fit(model: Any, dataset: Dataset, epochs: int, batch_size: int, say: Say) -> list[float]:
    """Train a compiled model; returns the loss of each epoch. Raises `UserError` when that cannot be done."""
    keras = keras_module()
    reporter = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: say(f"epoch {epoch + 1} of {epochs}, loss {logs['loss']:.4f}")
    )
    try:
        history = model.fit(
            dataset.x_train,
            dataset.y_train,
            epochs=epochs,
            batch_size=batch_size,
            verbose=0,
            callbacks=[reporter],
        )
    except Exception as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"train: Keras cannot fit this model to this data: {first.strip()}") from error
    losses = [float(value) for value in history.history["loss"]]
    if not np.isfinite(losses).all():
        raise UserError("train: the loss is not finite; lower train.learning_rate or check the data")
    return losses


def check_fits(model: Any, dataset: Dataset) -> None:
    """Raise `UserError` when the model does not take the data's samples."""
    check_samples(tuple(model.input_shape[1:]), dataset)


def check_samples(expected: tuple[int | None, ...], dataset: Dataset) -> None:
    """Raise `UserError` when the data's samples are not shaped as a model expects them; None fits any size."""
    received = dataset.x_train.shape[1:]
    if len(expected) != len(received) or any(
        e not in (None, r) for e, r in zip(expected, received, strict=True)
    ):
        raise UserError(f"model.source: the model takes samples of {expected}, the data has {received}")


def output_activation(model: Any) -> str:
    """The name of the activation that the model ends with; of a last layer without one, its class in lower case."""
    last = model.layers[-1]
    activation = getattr(last, "activation", None)
    return getattr(activation, "__name__", "") if activation else type(last).__name__.lower()


def _check_shape(loss: str, y: np.ndarray, outputs: tuple[int, ...]) -> None:
    if y.size != len(y) * int(np.prod(outputs)):
        raise UserError(
            f"train.loss: {loss} needs targets like the model's output {outputs}, received {y.shape[1:]}"
        )


def _check_class_numbers(y: np.ndarray, classes: int) -> None:
    low, high = float(y.min()), float(y.max())
    if low < 0 or high >= classes or not np.array_equal(y, np.round(y)):
        raise UserError(
            f"data: the model tells {classes} classes, so targets from 0 to {classes - 1} were expected;"
            f" received {low:g} to {high:g}"
        )

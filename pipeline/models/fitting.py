"""Fitting a Keras model to data: the loss, whether model and data go together, and what is said meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.errors import DataMisfit, UserError
from pipeline.models.data import Dataset
from pipeline.models.ports import Port, as_outputs, entering, input_ports, leaving, output_ports
from pipeline.models.quiet import keras_module
from pipeline.models.samples import Samples, as_type, by_name, in_order, keyed
from pipeline.progress import Say

AUTO_LOSS = {"accuracy": "crossentropy", "auc": "crossentropy", "mse": "mse"}


def loss_for(model: Any, loss: str | Mapping[str, str], y: Samples) -> Any:
    """The Keras loss of that name, for this model's output and these targets (n, ...).

    `crossentropy` is the binary one for a single output, and else goes by class numbers or one-hot targets. Of several
    outputs each has its loss, the same for all or by their names, in the structure in which the model gives them.
    Raises `UserError` when targets and output do not go together, or a loss is missing.
    """
    ports = output_ports(model)
    names = [port.name for port in ports]
    chosen = loss if isinstance(loss, Mapping) else dict.fromkeys(names, loss)
    if set(chosen) != set(names):
        raise UserError(
            f"train.loss: expected a loss for each output of the model, {', '.join(names)};"
            f" received one for {', '.join(chosen)}"
        )
    losses = [
        _loss_of(port, chosen[port.name], targets)
        for port, targets in zip(ports, in_order(y, names), strict=True)
    ]
    return as_outputs(model, losses)


def _loss_of(port: Port, loss: str, y: np.ndarray) -> Any:
    keras = keras_module()
    outputs = port.shape
    linear = port.activation not in ("softmax", "sigmoid")
    if loss == "crossentropy" and outputs[-1] > 1:
        if y.size == len(y) * int(np.prod(outputs[:-1])):
            _check_class_numbers(y, outputs[-1], port)
            return keras.losses.SparseCategoricalCrossentropy(from_logits=linear)
        _check_shape(loss, y, port)
        return keras.losses.CategoricalCrossentropy(from_logits=linear)
    if loss in ("crossentropy", "binary_crossentropy"):
        _check_shape(loss, y, port)
        _check_class_numbers(y, 2, port)
        return keras.losses.BinaryCrossentropy(from_logits=linear)
    if loss in ("mse", "categorical_crossentropy"):
        _check_shape(loss, y, port)
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
            entering(model, dataset.x_train),
            leaving(model, dataset.y_train),
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
    """Raise `DataMisfit` when the model does not take the data's samples, or does not give what it has targets for."""
    check_ports(input_ports(model), output_ports(model), dataset)


def check_ports(entrances: Sequence[Port], exits: Sequence[Port], dataset: Dataset) -> None:
    """`check_fits` of a model with these inputs and outputs."""
    _check_names("inputs", "x", entrances, dataset.x_train, dataset.x_test)
    _check_names("outputs", "y", exits, dataset.y_train, dataset.y_test)
    names = [port.name for port in entrances]
    for samples in (dataset.x_train, dataset.x_test):
        for port, array in zip(entrances, in_order(samples, names), strict=True):
            _check_entrance(port, array, named=len(entrances) > 1)


def _check_names(what: str, key: str, ports: Sequence[Port], *parts: Samples) -> None:
    """Whether there is an array for each port, and none besides."""
    expected = {port.name for port in ports} if len(ports) > 1 else {""}
    if all(set(by_name(part)) == expected for part in parts):
        return
    keys = [f"{key}_train", f"{key}_test"]
    wanted = [f"{each}/{port.name}" for each in keys for port in ports] if len(ports) > 1 else keys
    received = [name for each, part in zip(keys, parts, strict=True) for name in keyed(each, part)]
    raise DataMisfit(
        f"the model has the {what} {', '.join(port.name for port in ports)}, expected the arrays {', '.join(wanted)};"
        f" received {', '.join(received)}"
    )


def _check_entrance(port: Port, array: np.ndarray, named: bool) -> None:
    received = array.shape[1:]
    if len(port.shape) != len(received) or any(
        e not in (None, r) for e, r in zip(port.shape, received, strict=True)
    ):
        which = f" at the input {port.name}" if named else ""
        raise UserError(
            f"model.source: the model takes samples of {port.shape}{which}, the data has {received}"
        )
    try:
        as_type(array, port.dtype)
    except ValueError as error:
        raise DataMisfit(f"the model's input {port.name} {error}") from None


def _check_shape(loss: str, y: np.ndarray, port: Port) -> None:
    if y.size != len(y) * int(np.prod(port.shape)):
        raise UserError(
            f"train.loss: {loss} needs targets like the model's output {port.name} {port.shape},"
            f" received {y.shape[1:]}"
        )


def _check_class_numbers(y: np.ndarray, classes: int, port: Port) -> None:
    low, high = float(y.min()), float(y.max())
    if low < 0 or high >= classes or not np.array_equal(y, np.round(y)):
        raise UserError(
            f"data: the model tells {classes} classes by {port.name}, so targets from 0 to {classes - 1} were expected;"
            f" received {low:g} to {high:g}"
        )

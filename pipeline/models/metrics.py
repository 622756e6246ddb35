"""What a model is judged by: accuracy, MSE, AUC, or a function of the user's; each with its direction."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from pipeline.artifacts import Artifact
from pipeline.errors import UserError
from pipeline.models import sources
from pipeline.models.samples import NamedArrays, Samples
from pipeline.strict_yaml import suggest

Direction = Literal["higher", "lower"]
BUILTIN: dict[str, Direction] = {"accuracy": "higher", "auc": "higher", "mse": "lower"}


def evaluate(
    metric: str, source: Artifact | None, y_true: Samples, y_pred: Samples, output: str | None = None
) -> float:
    """The metric's value. `y_pred` (n, ...) are the model's outputs, `y_true` (n, ...) the targets.

    `source` is the user's file when `metric` is not built in. Of several outputs the one named `output` is judged;
    without a name all are, by a function of the user's, which gets both as dicts. Raises `UserError` when the result
    is no number, and for an output that is not there.
    """
    truth, outputs = (_judged(metric, source, samples, output) for samples in (y_true, y_pred))
    if source is not None:
        value = sources.call(sources.from_artifact(source), truth, outputs)
    else:
        value = {"accuracy": accuracy, "auc": auc, "mse": mse}[metric](truth, outputs)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise UserError(f"metric {metric}: expected a number, received {value!r}") from None
    if not np.isfinite(number):
        raise UserError(f"metric {metric}: expected a finite number, received {number}")
    return number


def _judged(metric: str, source: Artifact | None, samples: Samples, output: str | None) -> Any:
    """What the metric gets of the outputs, or of the targets."""
    if not isinstance(samples, NamedArrays):
        if output is not None:
            raise UserError(
                f"metric.output: the model has one output; leave the key out, received {output!r}"
            )
        return samples
    if output is None and source is None:
        raise UserError(
            f"metric.output: missing; say which of the outputs {metric} judges: {', '.join(samples.arrays)}"
        )
    if output is None:
        return dict(samples.arrays)
    if output not in samples.arrays:
        raise UserError(
            f"metric.output: the model has no output {output!r}; {suggest(output, samples.arrays)}"
        )
    return samples.arrays[output]


def worsening(direction: Direction, before: float, after: float) -> float:
    """How much worse `after` is than `before`, in the metric's own units; negative when it is better."""
    return before - after if direction == "higher" else after - before


def accuracy(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """Share of samples whose class is right: `y_true` (n,) class numbers or (n, classes) one-hot.

    A single output per sample is the probability of class 1; `UserError` where it is none, but a logit perhaps.
    """
    if y_pred.size != len(y_pred) * y_pred.shape[-1]:
        raise UserError(
            f"metric accuracy: expected one answer a sample, received outputs of {y_pred.shape[1:]}"
        )
    y_pred = y_pred.reshape(len(y_pred), -1)
    if y_pred.shape[1] == 1 and not (y_pred.min() >= 0 and y_pred.max() <= 1):
        raise UserError(
            f"metric accuracy: expected the probability of class 1 as the single output, received values from"
            f" {y_pred.min():g} to {y_pred.max():g}; let the model end with a sigmoid, or judge it by auc"
        )
    told, truth = max(y_pred.shape[1], 2), _class_numbers(y_true)
    if y_true.size not in (len(y_true), len(y_true) * told) or not np.isin(truth, range(told)).all():
        low, high = float(y_true.min()), float(y_true.max())
        raise UserError(
            f"metric accuracy: the model tells {told} classes, so class numbers from 0 to {told - 1} or as many one-hot"
            f" targets were expected; received targets of {y_true.shape[1:]}, from {low:g} to {high:g}"
        )
    classes = y_pred.argmax(axis=1) if y_pred.shape[1] > 1 else (y_pred[:, 0] > 0.5).astype(int)
    return float(np.mean(classes == truth))


def mse(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """Mean squared error over all samples and outputs."""
    if y_true.size != y_pred.size:
        raise UserError(
            f"metric mse: expected targets shaped as the outputs {y_pred.shape}, received {y_true.shape}"
        )
    return float(np.mean((y_true.reshape(len(y_true), -1) - y_pred.reshape(len(y_pred), -1)) ** 2))


def auc(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """Area under the ROC curve for labels 0 and 1, ties counted half (the Mann-Whitney statistic).

    `y_pred` (n,) or (n, 1) are scores of class 1; (n, 2) are scores of both classes.
    """
    scores = y_pred.reshape(len(y_pred), -1)
    if scores.shape[1] > 2:
        raise UserError(f"metric auc: expected one or two outputs a sample, received {scores.shape[1]}")
    labels = _class_numbers(y_true)
    if not np.isin(labels, (0, 1)).all():
        raise UserError(f"metric auc: expected the labels 0 and 1, received {np.unique(labels)[:5]}")
    score, positive = scores[:, -1], labels == 1
    if positive.all() or not positive.any():
        raise UserError("metric auc: expected samples of both classes 0 and 1, received one class only")
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    n_positive = int(positive.sum())
    above = ranks[positive].sum() - n_positive * (n_positive + 1) / 2
    return float(above / (n_positive * (len(score) - n_positive)))


def _class_numbers(y_true: np.ndarray) -> np.ndarray:
    """(n,) class numbers, of those or of one-hot targets (n, classes)."""
    truth = y_true.reshape(len(y_true), -1)
    numbers: np.ndarray = truth.argmax(axis=1) if truth.shape[1] > 1 else truth[:, 0]
    return numbers

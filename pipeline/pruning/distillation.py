"""Distillation: a pruned model learns the answers of the dense one (Hinton, Vinyals & Dean 2015)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.models.samples import Samples


@dataclass(frozen=True)
class Distillation:
    """What is learnt beside the task: loss = (1 - share) task + share distance(dense outputs, outputs).

    `outputs` (n, ...) are the dense model's, in the order of the training samples, and `activations` the names of
    what they come out of, one for each output. Of several outputs tasks and distances are summed.
    """

    outputs: Samples
    activations: Sequence[str]
    share: float
    temperature: float


def distance(activation: str, temperature: float) -> Callable[[Any, Any], Any]:
    """How far outputs (n, ...) are from the dense model's, for each sample and all but the last axis.

    After a softmax T^2 KL(p_T || q_T), with p_T the dense model's probabilities at temperature T, that is
    softmax(logits / T) = p^(1/T) / sum p^(1/T); after a sigmoid the same for each output and its complement; else
    the mean squared error, which for logits is the limit of a high temperature.
    """
    import keras

    ops = keras.ops

    def soft(probabilities: Any) -> Any:
        """Their logarithms at the temperature, over the last axis."""
        logits = ops.log(ops.maximum(probabilities, keras.config.epsilon()))
        return ops.log_softmax(logits / temperature, axis=-1)

    def softmax_distance(dense: Any, now: Any) -> Any:
        p, q = soft(dense), soft(now)
        return temperature**2 * ops.sum(ops.exp(p) * (p - q), axis=-1)

    def sigmoid_distance(dense: Any, now: Any) -> Any:
        both = (ops.stack([each, 1 - each], axis=-1) for each in (dense, now))
        return ops.mean(softmax_distance(*both), axis=-1)

    def squared(dense: Any, now: Any) -> Any:
        return ops.mean(ops.square(dense - now), axis=-1)

    return {"softmax": softmax_distance, "sigmoid": sigmoid_distance}.get(activation, squared)

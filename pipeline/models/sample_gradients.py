"""The gradients of the training loss, sample by sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Objective:
    """What training lowers: the Keras `loss` between `targets` (n, ...) and the outputs of a model."""

    targets: NDArray[Any]
    loss: Any


def sample_gradients(
    model: Any, weights: Sequence[tuple[str, int]], samples: NDArray[Any], objective: Objective
) -> Iterator[list[NDArray[np.float32]]]:
    """For each of `samples`, the gradients of its loss by the weights, each named by its layer and its number there.

    The model, of one output, is as it is when it predicts; penalties on weights are no part of the loss.
    """
    import tensorflow as tf

    variables = [model.get_layer(layer).weights[number].value for layer, number in weights]

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def slopes(x: Any, y: Any) -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            loss = tf.reduce_mean(objective.loss(y, model(x, training=False)))
        return tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    for start in range(len(samples)):
        part = slice(start, start + 1)
        found = slopes(tf.constant(samples[part]), tf.constant(objective.targets[part]))
        yield [np.asarray(each, np.float32) for each in found]

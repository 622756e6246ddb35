"""The gradients of the training loss, sample by sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.models.ports import entering, leaving
from pipeline.models.samples import Samples


@dataclass(frozen=True)
class Objective:
    """What training lowers: the Keras `loss` between `targets` (n, ...) and the outputs of a model.

    Of several outputs the sum; `loss` is then in the structure in which the model gives them.
    """

    targets: Samples
    loss: Any


def sample_gradients(
    model: Any, weights: Sequence[tuple[str, int]], samples: Samples, objective: Objective
) -> Iterator[list[NDArray[np.float32]]]:
    """For each of `samples`, the gradients of its loss by the weights, each named by its layer and its number there.

    The model is as it is when it predicts; penalties on weights are no part of the loss.
    """
    import tensorflow as tf

    variables = [model.get_layer(layer).weights[number].value for layer, number in weights]

    losses = tf.nest.flatten(objective.loss)

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def slopes(x: Any, y: Any) -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            found = tf.nest.flatten(model(x, training=False))
            each = zip(losses, tf.nest.flatten(y), found, strict=True)
            loss = tf.add_n([tf.reduce_mean(lost(target, output)) for lost, target, output in each])
        return tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    for start in range(len(samples)):
        part = slice(start, start + 1)
        given = tf.nest.map_structure(tf.constant, entering(model, samples[part]))
        wanted = tf.nest.map_structure(tf.constant, leaving(model, objective.targets[part]))
        found = slopes(given, wanted)
        yield [np.asarray(each, np.float32) for each in found]

"""How a Keras model's outputs change along a direction of its weights, and the transpose: no Jacobian is formed.

Backpropagation gives J^T u of the outputs' Jacobian J by the weights, for any u. It is linear in u, so that its own
derivative by u along a direction v of the weights is J v: two passes backwards, whatever the number of outputs
(Pearlmutter 1994, "Fast exact multiplication by the Hessian", has the same in one pass onwards).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Derivatives:
    """Those of `model` by the weights of `layers`, in the order of each layer's own; compiled when they are first used.

    A batch is a list of inputs (n, ...), one for each of the model's; its outputs are flat, (n, o).
    """

    def __init__(self, model: Any, layers: Sequence[Any]) -> None:
        self._model = model
        self._variables = [weight.value for layer in layers for weight in layer.weights]

    def along(self, batch: Sequence[Array], direction: Sequence[Array]) -> tuple[Array, Array]:
        """The outputs, and what they change by along `direction`, one array for each of the weights: both (n, o)."""
        outputs, slopes = self._along(*batch, *direction)
        return np.asarray(outputs), np.asarray(slopes)

    def transposed(self, batch: Sequence[Array], outputs: Array) -> list[Array]:
        """What `outputs` (n, o), times those of the model and summed, have for gradient by each of the weights."""
        return [np.asarray(gradient) for gradient in self._transposed(*batch, outputs)]

    @functools.cached_property
    def _along(self) -> Any:
        import tensorflow as tf

        entrances = self._entrances()
        weights = [tf.TensorSpec(variable.shape, variable.dtype) for variable in self._variables]

        @tf.function(input_signature=[*entrances, *weights])  # type: ignore[untyped-decorator]
        def along(*given: Any) -> Any:
            batch, direction = list(given[: len(entrances)]), given[len(entrances) :]
            with tf.GradientTape() as by_outputs:
                with tf.GradientTape() as by_weights:
                    by_weights.watch(self._variables)
                    outputs = self._outputs(batch)
                u = tf.zeros_like(outputs)
                by_outputs.watch(u)
                gradients = self._backwards(by_weights, outputs, u)
                image = tf.add_n([tf.reduce_sum(g * v) for g, v in zip(gradients, direction, strict=True)])
            return outputs, by_outputs.gradient(image, u, unconnected_gradients="zero")

        return along

    @functools.cached_property
    def _transposed(self) -> Any:
        import tensorflow as tf

        u = tf.TensorSpec((None, None), self._model.outputs[0].dtype)

        @tf.function(input_signature=[*self._entrances(), u])  # type: ignore[untyped-decorator]
        def transposed(*given: Any) -> Any:
            with tf.GradientTape() as by_weights:
                by_weights.watch(self._variables)
                outputs = self._outputs(list(given[:-1]))
            return self._backwards(by_weights, outputs, given[-1])

        return transposed

    def _backwards(self, tape: Any, outputs: Any, u: Any) -> Any:
        return tape.gradient(outputs, self._variables, output_gradients=u, unconnected_gradients="zero")

    def _outputs(self, batch: Sequence[Any]) -> Any:
        """Several stand side by side."""
        import tensorflow as tf

        found = tf.nest.flatten(self._model(batch, training=False))
        return tf.concat([tf.reshape(each, (tf.shape(each)[0], -1)) for each in found], axis=1)

    def _entrances(self) -> list[Any]:
        import tensorflow as tf

        return [tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype) for tensor in self._model.inputs]

"""How much the outputs of a model depend on those of a layer within it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.models import graph
from pipeline.models.ports import entering
from pipeline.models.samples import Samples

# More model outputs than this are combined at random.
_PROBES = 32


def sensitivity(
    model: Any, names: Sequence[str], samples: Samples, batch_size: int = 64
) -> dict[str, NDArray[np.float64]]:
    """For each of the layers `names` (r,): the squares of the derivatives of the model's outputs by the layer's
    outputs before its activation, summed over model outputs and positions, and averaged over `samples`.

    Of a model of more than 32 outputs the sum over them is estimated without bias by 32 combinations with random
    signs, the same every time (Hutchinson 1990). The layers are Keras' own, with an activation, and called once.
    """
    import tensorflow as tf

    twin = graph.copy(model)
    seen: dict[str, Any] = {}
    for name in names:
        layer = twin.get_layer(name)
        layer.activation = _watched(name, layer.activation, seen)
    totals: dict[str, Any] = {}
    for start in range(0, len(samples), batch_size):
        batch = samples[start : start + batch_size]
        given = entering(twin, batch)
        with tf.GradientTape(persistent=True) as tape:
            seen["tape"] = tape
            outputs = tf.concat(
                [tf.reshape(out, (len(batch), -1)) for out in tf.nest.flatten(twin(given, training=False))],
                axis=1,
            )
            probes = [tf.reduce_sum(outputs * signs) for signs in _probes(int(outputs.shape[1]))]
        for probe in probes:
            slopes = tape.gradient(
                probe,
                {name: seen[name] for name in names},
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            for name, slope in slopes.items():
                square = np.square(np.asarray(slope, np.float64))
                totals[name] = totals.get(name, 0) + square.sum(axis=tuple(range(square.ndim - 1)))
        del tape
    return {name: total / len(samples) for name, total in totals.items()}


def _watched(name: str, own: Callable[[Any], Any], seen: dict[str, Any]) -> Callable[[Any], Any]:
    """The activation `own`, which also puts into `seen` what enters it, watched by the tape there."""

    def activation(entered: Any) -> Any:
        if "tape" in seen:
            seen["tape"].watch(entered)
            seen[name] = entered
        return own(entered)

    return activation


def _probes(outputs: int) -> NDArray[np.float32]:
    """Rows (., outputs) whose products with a vector have, squared and summed, its square sum, or on average so."""
    if outputs <= _PROBES:
        return np.eye(outputs, dtype=np.float32)
    signs = np.random.default_rng(0).integers(0, 2, (_PROBES, outputs)) * 2 - 1
    combinations: NDArray[np.float32] = (signs / np.sqrt(_PROBES)).astype(np.float32)
    return combinations

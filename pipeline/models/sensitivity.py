"""How much the outputs of a model depend on those of a kernel within it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.models import graph
from pipeline.models.graph import Graph
from pipeline.models.kernels import Kernel, kernel_named
from pipeline.models.observation import observed
from pipeline.models.ports import entering
from pipeline.models.samples import Samples

# More model outputs than this are combined at random.
_PROBES = 32


def sensitivity(
    model: Any, names: Sequence[str], samples: Samples, batch_size: int = 64
) -> dict[str, NDArray[np.float64]]:
    """For each of the kernels `names` (r,): the squares of the derivatives of the model's outputs by what the kernel's
    product with its inputs is, summed over model outputs and positions (steps of a sequence), and averaged over
    `samples`.

    What a recurrent layer carries on through time is in the derivatives. Of a model of more than 32 outputs the sum
    over them is estimated without bias by 32 combinations with random signs, the same every time (Hutchinson 1990).
    """
    wired = Graph(graph.copy(model))
    kernels = {name: kernel_named(wired, name) for name in names}
    totals: dict[str, Any] = dict.fromkeys(names, 0)
    for start in range(0, len(samples), batch_size):
        for name, slope in _slopes(wired.model, kernels, samples[start : start + batch_size]):
            totals[name] = totals[name] + np.sum(kernels[name].output_rows(slope) ** 2, axis=0)
    return {name: total / len(samples) for name, total in totals.items()}


def _slopes(
    model: Any, kernels: Mapping[str, Kernel], batch: Samples
) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """The derivatives of each output of the model, or combination, by each product with a kernel."""
    import tensorflow as tf

    products: dict[str, list[Any]] = {name: [] for name in kernels}
    tape = tf.GradientTape(persistent=True)

    def note(name: str, _: Any, product: Any) -> None:
        tape.watch(product)
        products[name].append(product)

    with tape:
        with observed(list(kernels.values()), note):
            found = tf.nest.flatten(model(entering(model, batch), training=False))
        outputs = tf.concat([tf.reshape(output, (len(batch), -1)) for output in found], axis=1)
        probes = [tf.reduce_sum(outputs * signs) for signs in _probes(int(outputs.shape[1]))]
    for probe in probes:
        slopes = tape.gradient(probe, products, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        yield from ((name, np.asarray(slope, np.float64)) for name, each in slopes.items() for slope in each)


def _probes(outputs: int) -> NDArray[np.float32]:
    """Rows (., outputs) whose products with a vector have, squared and summed, its square sum, or on average so."""
    if outputs <= _PROBES:
        return np.eye(outputs, dtype=np.float32)
    signs = np.random.default_rng(0).integers(0, 2, (_PROBES, outputs)) * 2 - 1
    combinations: NDArray[np.float32] = (signs / np.sqrt(_PROBES)).astype(np.float32)
    return combinations

"""A Keras model's outputs, linearised in the kernels and biases of chosen layers: what enters each, and the slopes.

The model is rebuilt with each chosen layer's activation a layer of its own, so that pre-activations are tensors of
the graph; a last softmax or sigmoid is left off. The outputs are then logits, whose slopes by the pre-activations
take one pass backwards for each number. Those of several outputs stand side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.models import graph
from pipeline.models.graph import Graph, Node
from pipeline.models.ports import input_names
from pipeline.models.samples import Samples, in_order
from pipeline.pruning.distance import Distance
from pipeline.pruning.keras_derivatives import Derivatives
from pipeline.pruning.linearised import Linearised, Matrices, linearised
from pipeline.pruning.output_distances import OutputDistances
from pipeline.pruning.patches import patches

Array = NDArray[Any]

# 64 MiB of float32 for what is kept of a batch: inputs and slopes of the layers.
_BATCH_ELEMENTS = 1 << 24
_FORWARD_BATCH = 1024
# 32 MiB of float32 for what enters and leaves the layers; all that a product keeps of a batch is some ten times that.
_PRODUCT_ELEMENTS = 1 << 23
# Each output costs a pass backwards.
_MOST_OUTPUTS = 1024


class KerasNetwork:
    """A copy of a model, as a `gauss_newton.Network` of the layers `names` and of calibration inputs.

    A layer's matrix (d, r) is its kernel, flattened as `patches` has it, and a last row for the biases it may have.
    The distance is that to the logits `target` (n, o), of the dense model, or to those the model has when this is
    made: of each output by default the one that goes with its last activation, softmax or sigmoid, and else squared;
    of several outputs their sum.

    Raises `ValueError` for a model of too many numbers in its outputs, for no samples, and for layers other than
    Dense, Conv1D or Conv2D that the model calls once.
    """

    def __init__(
        self,
        model: Any,
        names: Sequence[str],
        samples: Samples,
        distance: Distance | None = None,
        target: Array | None = None,
    ) -> None:
        wired = Graph(model)
        for name in names:
            _check(wired, name)
        self.samples = [np.asarray(x) for x in in_order(samples, input_names(model))]
        self._split = _split(model, names)
        self._derivatives = Derivatives(self._split.forward, self._split.layers)
        self.measured = self._measured(distance)
        self.target = self.outputs(self.matrices()) if target is None else target

    def matrices(self) -> list[Array]:
        """The weights as they are now, one matrix a layer, in float32."""
        return self._as_matrices([weight for layer in self._split.layers for weight in layer.get_weights()])

    def layer_weights(self, matrices: Matrices) -> dict[str, list[Array]]:
        """What matrices, or masks, are as the layers' `set_weights` takes them: by name, the kernel and any bias."""
        return {
            layer.name: [
                matrix[: len(matrix) - layer.use_bias].reshape(layer.kernel.shape),
                *([matrix[-1]] if layer.use_bias else []),
            ]
            for layer, matrix in zip(self._split.layers, matrices, strict=True)
        }

    def outputs(self, matrices: Matrices) -> Array:
        """The logits (n, o) of all samples with these weights."""
        self._assign(matrices)
        found = [
            np.asarray(_flat(self._split.forward(batch, training=False)))
            for batch in self._batches(_FORWARD_BATCH)
        ]
        return np.concatenate(found)

    def distance(self, weights: Matrices) -> float:
        """The mean distance over the samples, with these weights."""
        return self.measured.value(self.outputs(weights), self.target)

    def linearise(self, weights: Matrices) -> Iterator[Linearised]:
        """The samples with these weights, in batches for which inputs and slopes together take about 64 MiB."""
        start = 0
        for batch in self._batches(self._step()):
            self._assign(weights)
            logits, inputs, slopes = self._slopes(batch)
            target = self.target[start : start + len(logits)]
            start += len(logits)
            pull = self.measured.gradient(logits, target)
            yield linearised(inputs, slopes, pull, self.measured.root(logits))

    def product(self, weights: Matrices, direction: Matrices) -> list[Array]:
        """The Gauss-Newton matrix of the mean distance times a direction, in batches that take some 300 MiB.

        `direction` and what is returned are one matrix (d, r) a layer, as the weights are.
        """
        self._assign(weights)
        along = [
            part.astype(np.float32) for parts in self.layer_weights(direction).values() for part in parts
        ]
        total = [np.zeros(part.shape) for part in along]
        for batch in self._batches(max(1, _PRODUCT_ELEMENTS // self._elements(outputs=1))):
            curved = self.measured.curved(*self._derivatives.along(batch, along))
            for sum_, part in zip(total, self._derivatives.transposed(batch, curved), strict=True):
                sum_ += part
        return self._as_matrices([sum_ / len(self.samples[0]) for sum_ in total])

    def _slopes(self, batch: list[Array]) -> tuple[Array, list[Array], list[Array]]:
        """Logits (n, o), and each layer's input rows (n, P, d) and slopes (n, o, P, r)."""
        import tensorflow as tf

        with tf.GradientTape(persistent=True) as tape:
            logits, entering, leaving = self._split.until(batch, training=False)
            flat = _flat(logits)
            columns = tf.unstack(flat, axis=1)
        passes = [tape.gradient(column, leaving, unconnected_gradients="zero") for column in columns]
        slopes = [
            np.stack([np.asarray(slope) for slope in of_layer], axis=1)
            for of_layer in zip(*passes, strict=True)
        ]
        return (
            np.asarray(flat),
            [_rows(layer, np.asarray(x)) for layer, x in zip(self._split.layers, entering, strict=True)],
            [slope.reshape(*slope.shape[:2], -1, slope.shape[-1]) for slope in slopes],
        )

    def _as_matrices(self, weights: Sequence[Array]) -> list[Array]:
        """From kernels and biases, in the layers' order."""
        rest, found = iter(weights), []
        for layer in self._split.layers:
            kernel, *bias = (next(rest) for _ in layer.weights)
            found.append(np.concatenate([kernel.reshape(-1, kernel.shape[-1]), *(b[None] for b in bias)]))
        return found

    def _assign(self, matrices: Matrices) -> None:
        for layer, weights in zip(self._split.layers, self.layer_weights(matrices).values(), strict=True):
            layer.set_weights(weights)

    def _batches(self, size: int) -> Iterator[list[Array]]:
        for start in range(0, len(self.samples[0]), size):
            yield [x[start : start + size] for x in self.samples]

    def _step(self) -> int:
        """The samples of a batch to linearise."""
        return max(1, _BATCH_ELEMENTS // self._elements(sum(self.measured.sizes)))

    def _elements(self, outputs: int) -> int:
        """How many numbers one sample takes once linearised: positions times inputs, and times outputs and slopes."""
        elements = 0
        _, _, leaving = self._split.until.output
        for layer, a in zip(self._split.layers, leaving, strict=True):
            positions = int(np.prod(a.shape[1:-1]))
            elements += positions * (int(np.prod(layer.kernel.shape[:-1])) + outputs * a.shape[-1])
        return elements

    def _measured(self, distance: Distance | None) -> OutputDistances:
        """The distance, `distance` for every output or that which goes with it, once it is known that it can be."""
        if not len(self.samples[0]):
            raise ValueError("expected at least one calibration sample, received none")
        shapes = [output.shape[1:] for output in self._split.forward.outputs]
        sizes = [_MOST_OUTPUTS + 1 if None in shape else int(np.prod(shape)) for shape in shapes]
        if sum(sizes) > _MOST_OUTPUTS:
            raise ValueError(
                f"expected outputs of at most {_MOST_OUTPUTS} numbers, each takes a pass backwards; received"
                f" {', '.join(map(str, shapes))}"
            )
        kinds = [distance or link for link in self._split.links]
        for kind, shape in zip(kinds, shapes, strict=True):
            if kind == "softmax" and len(shape) != 1:
                raise ValueError(
                    f"expected one softmax a sample, received an output of {shape}; give the distance 'squared'"
                )
        return OutputDistances(tuple(kinds), tuple(sizes))


@dataclass(frozen=True)
class _Split:
    """`forward` gives the logits of each output; `until` [logits, what enters each layer, what leaves it before its
    activation]; `links` are the distances that go with the outputs' own activations."""

    layers: list[Any]
    forward: Any
    until: Any
    links: list[Distance]


def _split(model: Any, names: Sequence[str]) -> _Split:
    """A copy of the model, with layers of its own."""
    import keras

    twin = graph.copy(model)
    layers = [twin.get_layer(name) for name in names]
    lasts = [_last(Graph(twin), output) for output in twin.outputs]
    links = [_link(last) for last in lasts]
    for last, link in zip(lasts, links, strict=True):
        if link != "squared" and hasattr(last, "activation"):
            last.activation = keras.activations.linear
    around: dict[str, tuple[Any, Any]] = {}

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if layer in lasts and isinstance(layer, keras.layers.Softmax):
            return args[0]
        if layer.name not in names:
            return layer(*args, **kwargs)
        activation, layer.activation = layer.activation, keras.activations.linear
        leaving = layer(*args, **kwargs)
        around[layer.name] = (args[0], leaving)
        return (
            leaving
            if activation is keras.activations.linear
            else keras.layers.Activation(activation)(leaving)
        )

    wired = keras.Model(twin.inputs, twin.outputs)
    rebuilt = keras.models.clone_model(wired, clone_function=lambda layer: layer, call_function=call)
    entering, leaving = ([around[name][side] for name in names] for side in (0, 1))
    until = keras.Model(rebuilt.inputs, [rebuilt.outputs, entering, leaving])
    return _Split(layers, keras.Model(rebuilt.inputs, rebuilt.outputs), until, links)


def _last(wired: Graph, output: Any) -> Any:
    """The operation whose result an output is; None where others read that result too, its activation with it."""
    operation = output._keras_history.operation
    calls = sum(call.node == operation.name for call in wired.calls)
    return operation if calls == 1 and not wired.nodes[operation.name].consumers else None


def _flat(outputs: Any) -> Any:
    """A tensor (n, ...), or several of them side by side, as (n, o)."""
    import tensorflow as tf

    return tf.concat([tf.reshape(each, (len(each), -1)) for each in tf.nest.flatten(outputs)], axis=1)


def _link(last: Any) -> Distance:
    """The distance that goes with the activation of the operation whose result the model's output is."""
    import keras

    if isinstance(last, keras.layers.Softmax):
        return "softmax"
    # A recurrent layer has an activation, too, but it is not the last thing that happens to what it puts out.
    activation = None if hasattr(last, "cell") else getattr(last, "activation", None)
    links: Mapping[Any, Distance] = {
        keras.activations.softmax: "softmax",
        keras.activations.sigmoid: "sigmoid",
    }
    return next((link for known, link in links.items() if activation is known), "squared")


def _check(wired: Graph, name: str) -> None:
    node = wired.nodes.get(name)
    reason = "the model has no such layer" if node is None else why_not_linearised(node)
    if reason is not None:
        raise ValueError(f"the layer {name!r} cannot be linearised: {reason}")


def why_not_linearised(node: Node) -> str | None:
    """What keeps a layer from being among those of a network; None where it can be."""
    if node.kind == "Conv1D":
        plain = node.layer.groups == 1 and node.layer.data_format == "channels_last" and not node.shared
        return None if plain else "expected a Conv1D of one group, channels last, that the model calls once"
    return graph.why_not_elements(node, calibrated=True)


def _rows(layer: Any, entering: Array) -> Array:
    """What enters a layer, as rows (n, P, d) whose product with its matrix is what leaves it, for float32 inputs."""
    n = len(entering)
    kernel = layer.kernel.shape[:-1]
    if len(kernel) == 2:
        padding, dilation = layer.padding, layer.dilation_rate[0]
        if padding == "causal":
            before = (kernel[0] - 1) * dilation
            entering, padding = np.pad(entering, ((0, 0), (before, 0), (0, 0))), "valid"
        size, stride = (1, layer.kernel_size[0]), (1, layer.strides[0])
        entering = patches(entering[:, None], size, stride, (1, dilation), padding)
    elif len(kernel) == 3:
        entering = patches(entering, layer.kernel_size, layer.strides, layer.dilation_rate, layer.padding)
    rows = entering.reshape(n, -1, entering.shape[-1])
    if not layer.use_bias:
        return rows
    return np.concatenate([rows, np.ones((*rows.shape[:2], 1), rows.dtype)], axis=2)

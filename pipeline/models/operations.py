"""How much a layer computes for one sample."""

from __future__ import annotations

import numpy as np

from pipeline.models.einsum import Einsum
from pipeline.models.graph import Graph, Node

RECURRENT = ("LSTM", "GRU", "SimpleRNN", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "RNN", "Bidirectional")


def positions(node: Node) -> int:
    """How often the layer's kernels are applied to one sample: pixels of a convolution's output, steps of a sequence.

    Of attention, which may read two sequences, the steps of the query. Raises `ValueError` where the model leaves such
    a size open.
    """
    shape = node.source.shape
    if node.kind in RECURRENT:
        where = shape[1:2]
    elif node.kind == "MultiHeadAttention":
        where = shape[1:-1]
    elif node.kind == "EinsumDense":
        summed = Einsum(node.layer.equation).summed_axes(len(shape))
        where = [size for axis, size in enumerate(shape) if axis not in (0, *summed)]
    else:
        counted = shape if "Transpose" in node.kind else node.layer.compute_output_shape(shape)
        where = counted[2:] if getattr(node.layer, "data_format", None) == "channels_first" else counted[1:-1]
    if None in where:
        raise ValueError(
            f"{node.name}: its multiply-accumulates cannot be counted, its shape {tuple(shape)} leaves a size open; "
            "give the model an Input of fixed shape, or another budget"
        )
    return int(np.prod(where, dtype=np.int64))


def multiply_accumulates(node: Node) -> int:
    """Those of the layer's kernels, for one sample, at every call; a table is looked up, not multiplied."""
    if node.nested:
        return sum(multiply_accumulates(inner) for inner in Graph(node.layer).nodes.values())
    return sum(
        times * int(np.prod(weight.shape))
        for times, weight in zip(times_multiplied(node), getattr(node.layer, "weights", ()), strict=True)
    )


def times_multiplied(node: Node) -> list[int]:
    """How often each number of each of the layer's weights is multiplied for one sample, at every call: never those of
    biases, of normalisation, and of a table.
    """
    weights = getattr(node.layer, "weights", ())
    kernels = [
        len(weight.shape) >= 2 and weight.name != "bias" and node.kind != "Embedding" for weight in weights
    ]
    times = positions(node) * node.calls if any(kernels) else 0
    return [times if kernel else 0 for kernel in kernels]

"""How much a layer computes for one sample."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.models.graph import Graph, Node

RECURRENT = ("LSTM", "GRU", "SimpleRNN", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "RNN", "Bidirectional")


def positions(node: Node) -> int:
    """How often the layer's kernels are applied to one sample: pixels of a convolution's output, steps of a sequence.

    Raises `ValueError` where the model leaves such a size open.
    """
    shape = node.source.shape
    if node.kind in RECURRENT:
        where = shape[1:2]
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
    sizes: list[int] = [weight.size for weight in _weights(node.layer) if weight.ndim >= 2]
    if not sizes or node.kind == "Embedding":
        return 0
    return positions(node) * sum(sizes) * max(len(node.producers), 1)


def _weights(layer: Any) -> list[Any]:
    return list(layer.get_weights()) if hasattr(layer, "get_weights") else []

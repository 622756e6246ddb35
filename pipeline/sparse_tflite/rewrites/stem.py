"""A 3x3 stem of stride 2 and `same` padding becomes what can begin a cluster, followed by what it computes.

On an even image the stem's output i reads inputs 2i, 2i + 1 and 2i + 2 of each axis. A 3x3 convolution of stride 2,
padded by 1, reads 2i - 1, 2i and 2i + 1: a kernel with a single one in it picks 2i (the middle) or 2i + 1 (the last).
What is picked as 2(i + 1) for the next output is 2i + 2 for this one: a 3x3 depthwise convolution with a single one in
each kernel fetches that. The 27 values that result, 9 places of 3 channels, go through the stem's own weights as a 1x1
convolution.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from pipeline.sparse_tflite.editing import Editor
from pipeline.sparse_tflite.schema import schema

SENTENCE = "a 3x3 stem of stride 2 with same padding becomes one that can begin a cluster"
AROUND = [[0, 0], [1, 1], [1, 1], [0, 0]]
# Of the stem's places 0, 1 and 2 on an axis: where a kernel that is padded by 1 finds it, and for which next output.
PICKED = ((1, 0), (2, 0), (1, 1))
VALUES = 27


def apply(editor: Editor) -> int:
    """Rewrite every such convolution of an image of 3 channels in floating point, whose weights are its own."""
    found = [operator for operator in editor.graph.operators if _fits(editor, operator)]
    for operator in found:
        _rewrite(editor, operator)
    return len(found)


def _fits(editor: Editor, operator: Any) -> bool:
    if editor.kind(operator) != "CONV_2D" or not editor.is_float(int(operator.inputs[0])):
        return False
    options, shape = operator.builtinOptions, editor.shape(int(operator.inputs[0]))
    return (
        editor.own_weights(int(operator.inputs[1])) is not None
        and editor.shape(int(operator.inputs[1]))[1:] == (3, 3, 3)
        and options.padding == schema().Padding.SAME
        and (options.strideH, options.strideW) == (2, 2)
        and (options.dilationHFactor, options.dilationWFactor) == (1, 1)
        and len(shape) == 4
        and shape[1] % 2 == shape[2] % 2 == 0
        and editor.only_batch_is_open(int(operator.inputs[0]))
    )


def _kernels() -> tuple[np.ndarray, np.ndarray]:
    """Of the convolution that picks, (27, 3, 3, 3), and of the depthwise one that fetches, (1, 3, 3, 27)."""
    pick = np.zeros((VALUES, 3, 3, 3), np.float32)
    fetch = np.zeros((1, 3, 3, VALUES), np.float32)
    places = itertools.product(PICKED, PICKED, range(3))
    for value, ((row, next_row), (column, next_column), channel) in enumerate(places):
        pick[value, row, column, channel] = 1
        fetch[0, 1 + next_row, 1 + next_column, value] = 1
    return pick, fetch


def _rewrite(editor: Editor, operator: Any) -> None:
    image, output = int(operator.inputs[0]), int(operator.outputs[0])
    batch, height, width, _ = editor.shape(image)
    name = editor.graph.tensors[output].name.decode(errors="replace")
    small = (batch, height // 2, width // 2, VALUES)
    padded = editor.like(image, f"{name}/padded", (batch, height + 2, width + 2, 3))
    picked, fetched = (editor.like(image, f"{name}/{step}", small) for step in ("picked", "fetched"))
    pick, fetch = (
        editor.constant(f"{name}/{step}", kernel)
        for step, kernel in zip(("pick", "fetch"), _kernels(), strict=True)
    )
    nothing = editor.constant(f"{name}/nothing", np.zeros(VALUES, np.float32))
    around = editor.constant(f"{name}/paddings", np.array(AROUND, np.int32))
    padding = schema().Padding
    editor.operator("PAD", [image, around], padded, operator)
    head = {"padding": padding.VALID, "strideH": 2, "strideW": 2}
    editor.operator("CONV_2D", [padded, pick, nothing], picked, operator, **head)
    inside = {"padding": padding.SAME, "strideH": 1, "strideW": 1, "depthMultiplier": 1}
    editor.operator("DEPTHWISE_CONV_2D", [picked, fetch, nothing], fetched, operator, **inside)
    chain = editor.own_weights(int(operator.inputs[1])) or []
    weights = editor.values(chain)
    editor.replace(chain, weights.reshape(len(weights), 1, 1, VALUES))
    editor.rewire(operator, [fetched, *operator.inputs[1:]])
    options = operator.builtinOptions
    options.padding, options.strideH, options.strideW = padding.VALID, 1, 1

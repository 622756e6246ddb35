"""A 3x3 depthwise convolution of stride 2 and `same` padding becomes a 5x5 one, padded by 2 on every side.

On an even image `same` pads nothing before and one after: output i reads inputs 2i to 2i + 2. With 2 on every side a
5x5 kernel reads 2i - 2 to 2i + 2; with zeros in its first two rows and columns it computes the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.sparse_tflite.editing import Editor
from pipeline.sparse_tflite.schema import schema

SENTENCE = "3x3 depthwise convolutions of stride 2 with same padding become padded 5x5 ones"
AROUND = [[0, 0], [2, 2], [2, 2], [0, 0]]


def apply(editor: Editor) -> int:
    """Rewrite every such convolution in floating point whose image is even and whose weights are its own."""
    found = [operator for operator in editor.graph.operators if _fits(editor, operator)]
    for operator in found:
        _rewrite(editor, operator)
    return len(found)


def _fits(editor: Editor, operator: Any) -> bool:
    if editor.kind(operator) != "DEPTHWISE_CONV_2D" or not editor.is_float(int(operator.inputs[0])):
        return False
    options, shape = operator.builtinOptions, editor.shape(int(operator.inputs[0]))
    chain = editor.own_weights(int(operator.inputs[1]))
    return (
        chain is not None
        and editor.shape(int(operator.inputs[1]))[1:3] == (3, 3)
        and options.padding == schema().Padding.SAME
        and (options.strideH, options.strideW) == (2, 2)
        and (options.dilationHFactor, options.dilationWFactor) == (1, 1)
        and len(shape) == 4
        and shape[1] % 2 == shape[2] % 2 == 0
        and editor.only_batch_is_open(int(operator.inputs[0]))
    )


def _rewrite(editor: Editor, operator: Any) -> None:
    image, chain = int(operator.inputs[0]), editor.own_weights(int(operator.inputs[1])) or []
    kernel = editor.values(chain)
    wide = np.zeros((1, 5, 5, kernel.shape[3]), kernel.dtype)
    wide[:, 2:, 2:] = kernel
    editor.replace(chain, wide)
    batch, height, width, channels = editor.shape(image)
    name = editor.graph.tensors[int(operator.outputs[0])].name.decode(errors="replace")
    padded = editor.like(image, f"{name}/padded", (batch, height + 4, width + 4, channels))
    around = editor.constant(f"{name}/paddings", np.array(AROUND, np.int32))
    editor.operator("PAD", [image, around], padded, operator)
    editor.rewire(operator, [padded, *operator.inputs[1:]])
    operator.builtinOptions.padding = schema().Padding.VALID

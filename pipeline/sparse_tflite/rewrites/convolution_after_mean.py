"""A 1x1 convolution of the mean over an image becomes a FULLY_CONNECTED: on one pixel they are the same product."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.sparse_tflite.editing import Editor
from pipeline.sparse_tflite.schema import schema

SENTENCE = "1x1 convolutions of a mean over the whole image become FULLY_CONNECTED"


def apply(editor: Editor) -> int:
    """Rewrite every such convolution in floating point that alone reads the mean, and whose weights are its own."""
    done = 0
    for operator in list(editor.graph.operators):
        mean = _mean(editor, operator)
        if mean is not None:
            _rewrite(editor, operator, mean)
            done += 1
    return done


def _mean(editor: Editor, operator: Any) -> Any | None:
    """The MEAN that the convolution reads; None where the rewrite does not fit."""
    if editor.kind(operator) != "CONV_2D":
        return None
    pixel = int(operator.inputs[0])
    mean, shape = editor.writer(pixel), editor.shape(pixel)
    fits = (
        mean is not None
        and editor.kind(mean) == "MEAN"
        and mean.builtinOptions.keepDims
        and editor.readers(pixel) == 1
        and editor.is_float(pixel)
        and len(shape) == 4
        and shape[1:3] == (1, 1)
        and editor.shape(int(operator.inputs[1]))[1:] == (1, 1, shape[3])
        and editor.own_weights(int(operator.inputs[1])) is not None
        and operator.builtinOptions.fusedActivationFunction in _activations()
        and not _squeezes(editor, operator)
    )
    return mean if fits else None


def _activations() -> tuple[int, ...]:
    """Those that a FULLY_CONNECTED can have: a convolution has one more, tanh."""
    known = schema().ActivationFunctionType
    return (known.NONE, known.RELU, known.RELU_N1_TO_1, known.RELU6)


def _squeezes(editor: Editor, operator: Any) -> bool:
    """Whether an image reads the result: a squeeze-and-excite block, which is inside the rules as it is."""
    seen, after = set(), [int(operator.outputs[0])]
    while after:
        tensor = after.pop()
        if tensor in seen:
            continue
        seen.add(tensor)
        for reader in editor.reading(tensor):
            if editor.kind(reader) != "RESHAPE":
                written = [int(each) for each in reader.outputs]
                if any(np.prod(editor.shape(each)[1:-1], dtype=np.int64) > 1 for each in written):
                    return True
                after += written
    return False


def _rewrite(editor: Editor, operator: Any, mean: Any) -> None:
    pixel, image = int(operator.inputs[0]), int(operator.outputs[0])
    batch, *_, channels = editor.shape(pixel)
    outputs = editor.shape(image)[3]
    chain = editor.own_weights(int(operator.inputs[1])) or []
    editor.replace(chain, editor.values(chain).reshape(outputs, channels))
    mean.builtinOptions.keepDims = False
    vector = editor.like(pixel, f"{_name(editor, pixel)}/vector", (batch, channels))
    editor.rewire(mean, outputs=[vector])
    product = editor.like(image, f"{_name(editor, image)}/vector", (batch, outputs))
    editor.operator(
        "FULLY_CONNECTED",
        [vector, *(int(each) for each in operator.inputs[1:])],
        product,
        operator,
        fusedActivationFunction=operator.builtinOptions.fusedActivationFunction,
    )
    sizes = editor.constant(f"{_name(editor, image)}/shape", np.array([-1, 1, 1, outputs], np.int32))
    editor.operator("RESHAPE", [product, sizes], image, operator, newShape=[-1, 1, 1, outputs])
    editor.remove([operator])


def _name(editor: Editor, tensor: int) -> str:
    return (editor.graph.tensors[tensor].name or b"").decode(errors="replace")

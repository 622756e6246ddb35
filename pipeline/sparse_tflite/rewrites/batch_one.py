"""An open batch becomes 1: what the model computes for one sample stays, and no size is computed at run time."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.sparse_tflite.editing import Editor
from pipeline.sparse_tflite.tables import numbers

SENTENCE = "an open batch becomes 1, and the shapes that were computed from it constants"


def apply(editor: Editor) -> int:
    """Fix the batch where it alone is open; returns 1 when that changed anything.

    Not in a model of several subgraphs: in the body of a loop, what is open may be something else.
    """
    if len(editor.model.subgraphs) > 1:
        return 0
    tensors = editor.graph.tensors
    signatures = [numbers(tensor.shapeSignature) for tensor in tensors]
    inputs = numbers(editor.graph.inputs)
    opened = [number for number in inputs if min(signatures[number], default=0) < 0]
    only_batch = all(
        editor.shape(number)[:1] == (1,) and min(signatures[number][1:], default=0) >= 0 for number in opened
    )
    if not opened or not only_batch:
        return 0
    for tensor, signature in zip(tensors, signatures, strict=True):
        if signature and signature[0] < 0 and min(signature[1:], default=0) >= 0 and tensor.shape[0] == 1:
            tensor.shapeSignature = None
    for operator in editor.graph.operators:
        _fix_reshape(editor, operator)
    _drop_unread(editor)
    return 1


def _fix_reshape(editor: Editor, operator: Any) -> None:
    if editor.kind(operator) != "RESHAPE" or len(operator.inputs) < 2:
        return
    output = editor.graph.tensors[int(operator.outputs[0])]
    if editor.writer(int(operator.inputs[1])) is None or output.shapeSignature is not None:
        return
    shape = np.array(output.shape, np.int32)
    name = (output.name or b"").decode(errors="replace")
    editor.rewire(operator, [int(operator.inputs[0]), editor.constant(f"{name}/shape", shape)])


def _drop_unread(editor: Editor) -> None:
    """Leave out the operators that computed shapes nobody asks for any more."""
    while True:
        unread = [
            operator
            for operator in editor.graph.operators
            if editor.kind(operator) in ("SHAPE", "STRIDED_SLICE", "PACK", "REDUCE_PROD", "CONCATENATION")
            and not any(editor.readers(int(number)) for number in operator.outputs)
        ]
        if not unread:
            return
        editor.remove(unread)

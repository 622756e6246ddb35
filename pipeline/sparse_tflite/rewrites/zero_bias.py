"""An int8 FULLY_CONNECTED without a bias gets one of zeros: with scales by output, a runtime may read it unasked.

TensorFlow's converter leaves out a bias that holds nothing but zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.sparse_tflite.editing import Editor
from pipeline.sparse_tflite.schema import schema
from pipeline.sparse_tflite.tables import numbers, vector

SENTENCE = "int8 FULLY_CONNECTED without a bias get one of zeros"


def apply(editor: Editor) -> int:
    """Give each such operator a bias: int32, of the input's scale times that of the weights of each output."""
    done = 0
    for operator in editor.graph.operators:
        scales = _scales(editor, operator)
        if scales is not None:
            _add(editor, operator, scales)
            done += 1
    return done


def _scales(editor: Editor, operator: Any) -> np.ndarray | None:
    """(1,) or (outputs,): the scales of the bias; None where the operator has one, or does not compute in int8."""
    inputs = numbers(operator.inputs)
    if editor.kind(operator) != "FULLY_CONNECTED" or (len(inputs) > 2 and inputs[2] >= 0):
        return None
    read = [editor.graph.tensors[number] for number in inputs[:2]]
    if any(tensor.type != schema().TensorType.INT8 or tensor.quantization is None for tensor in read):
        return None
    source, weights = (
        np.asarray(vector(tensor.quantization.scale), np.float32).reshape(-1) for tensor in read
    )
    known = len(source) == 1 and len(weights) in (1, *editor.shape(inputs[1])[:1])
    return source * weights if known else None


def _add(editor: Editor, operator: Any, scales: np.ndarray) -> None:
    inputs, written = numbers(operator.inputs)[:2], editor.graph.tensors[int(operator.outputs[0])]
    name = (written.name or b"").decode(errors="replace")
    zeros = np.zeros(editor.shape(inputs[1])[0], np.int32)
    editor.rewire(operator, [*inputs, editor.constant(f"{name}/bias", zeros, scales)])

"""How fine the answers of a .tflite file are."""

from __future__ import annotations

from typing import Any

from pipeline.sparse_tflite.flatbuffer import damage_is_told, read_model
from pipeline.sparse_tflite.weights import operator_name


def output_quantum(content: bytes, name: str) -> float:
    """The step between neighbouring values of the outputs, the greatest one of several; 0.0 of a float model.

    Interpreters give an output of whole numbers as it is stored: its step is 1.
    """
    model = read_model(content, name)
    with damage_is_told(name):
        graph = model.subgraphs[0]
        dequantised = {
            int(operator.outputs[0]): int(operator.inputs[0])
            for operator in graph.operators
            if operator_name(model, operator) == "DEQUANTIZE"
        }
        steps = [
            _scale(graph.tensors[dequantised[int(index)]])
            if int(index) in dequantised
            else float(_scale(graph.tensors[int(index)]) > 0)
            for index in graph.outputs
        ]
    return max(steps, default=0.0)


def _scale(tensor: Any) -> float:
    scale = None if tensor.quantization is None else tensor.quantization.scale
    return float(scale[0]) if scale is not None and len(scale) else 0.0

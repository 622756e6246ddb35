"""How fine the answers of a .tflite file are."""

from __future__ import annotations

from typing import Any

from pipeline.sparse_tflite.flatbuffer import damage_is_told, read_model
from pipeline.sparse_tflite.weights import operator_name


def output_quantum(content: bytes, name: str) -> float:
    """The step between neighbouring values of the outputs, the greatest one of several; 0.0 of a float model."""
    model = read_model(content, name)
    with damage_is_told(name):
        graph = model.subgraphs[0]
        dequantised = {
            int(operator.outputs[0]): int(operator.inputs[0])
            for operator in graph.operators
            if operator_name(model, operator) == "DEQUANTIZE"
        }
        stored = [graph.tensors[dequantised.get(int(index), int(index))] for index in graph.outputs]
        scales = [_scale(tensor) for tensor in stored]
    return max(scales, default=0.0)


def _scale(tensor: Any) -> float:
    scale = None if tensor.quantization is None else tensor.quantization.scale
    return float(scale[0]) if scale is not None and len(scale) else 0.0

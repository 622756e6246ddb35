"""Whole numbers that stand for real ones, and how fine the answers of a .tflite file are for it."""

from __future__ import annotations

from typing import Any

import numpy as np

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
        scales = [quantisation(tensor)[0] or 0.0 for tensor in stored]
    return max(scales, default=0.0)


def quantisation(tensor: Any) -> tuple[float | None, int | None]:
    """Scale and zero point of a tensor that has one of each; None of any other."""
    found = tensor.quantization
    scales = None if found is None else found.scale
    if scales is None or len(scales) != 1 or not 0 < scales[0] < np.inf:
        return None, None
    points = found.zeroPoint
    return float(scales[0]), int(points[0]) if points is not None and len(points) else 0


def quantised(values: np.ndarray, scale: float, zero_point: int, dtype: Any) -> np.ndarray:
    """The nearest whole numbers that `dtype` has for real `values`: round(values / scale) + zero point."""
    limits = np.iinfo(dtype)
    whole: np.ndarray = np.clip(np.rint(values / scale) + zero_point, limits.min, limits.max).astype(dtype)
    return whole


def dequantised(numbers: np.ndarray, scale: float, zero_point: int) -> np.ndarray:
    """The real values (float32) that whole numbers stand for."""
    return (scale * (numbers.astype(np.float64) - zero_point)).astype(np.float32)

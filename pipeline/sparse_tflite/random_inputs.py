"""Inputs for a file that nobody gave any for."""

from __future__ import annotations

import math

import numpy as np

from pipeline.errors import UserError
from pipeline.models.samples import Samples, of_names
from pipeline.sparse_tflite.signature import check_batch_one, read_signature

SAMPLES = 32
MAX_SAMPLE = 1 << 24


def random_inputs(content: bytes, name: str) -> Samples:
    """32 samples of each input of a .tflite file, from seeded distributions: normal numbers, of whole ones 0 and 1.

    The latter are rows of any table that they may look up; whole numbers that stand for real ones are any.
    Raises `UserError` for a file that is not of batch 1.
    """
    signature = read_signature(content, name)
    check_batch_one(signature, name)
    random = np.random.default_rng(0)
    arrays = []
    for tensor in signature.inputs:
        if math.prod(tensor.shape) > MAX_SAMPLE:
            raise UserError(
                f"{name}: takes {math.prod(tensor.shape):,} values a sample; expected {MAX_SAMPLE:,} at most"
            )
        shape = (SAMPLES, *tensor.shape[1:])
        floating = tensor.dtype.startswith("float")
        limits = (0, 1) if tensor.scale is None else (np.iinfo(tensor.dtype).min, np.iinfo(tensor.dtype).max)
        found = random.normal(size=shape) if floating else random.integers(*limits, shape, endpoint=True)
        arrays.append(found.astype(tensor.dtype))
    return of_names(arrays, [tensor.name for tensor in signature.inputs])

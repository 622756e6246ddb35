"""Read and write a .tflite file."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.sparse_tflite.bounded import BoundedBytes
from pipeline.sparse_tflite.references import settle
from pipeline.sparse_tflite.schema import schema
from pipeline.sparse_tflite.tables import vector

IDENTIFIER = b"TFL3"
ALIGNMENT = 16


def read_model(content: bytes, name: str) -> Any:
    """The model as the schema's `ModelT`; `name` names the file in errors.

    Raises `UserError` when it is no TFLite flatbuffer, contradicts itself, or keeps constants outside of it. What it
    costs to find out is bounded by the file's size, whatever it says of itself.
    """
    if len(content) < 8 or content[4:8] != IDENTIFIER:
        raise UserError(f"{name}: not a TFLite file (expected the mark {IDENTIFIER.decode()} at byte 4)")
    with damage_is_told(name):
        model = schema().ModelT.InitFromPackedBuf(BoundedBytes(content), 0)
        settle(model)
    outside = [buffer.offset for buffer in model.buffers]
    outside += [each.largeCustomOptionsOffset for graph in model.subgraphs for each in graph.operators]
    # 1 stands for a place that was never filled in.
    if max(outside, default=0) > 1 or vector(model.externalBuffers) or vector(model.externalBufferGroups):
        raise UserError(
            f"{name}: keeps constants outside the flatbuffer, as files larger than 2 GB do; expected all inside"
        )
    return model


@contextlib.contextmanager
def damage_is_told(name: str) -> Iterator[None]:
    """A file whose parts contradict each other fails somewhere in the block: `UserError`, whatever failed."""
    try:
        yield
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        MemoryError,
        TypeError,
        ValueError,
        struct.error,
    ) as error:
        raise UserError(f"{name}: a damaged TFLite file: {type(error).__name__}: {error}") from error


def write_model(model: Any) -> bytes:
    """The flatbuffer of a `ModelT`; one model gives one byte string."""
    import flatbuffers

    builder = flatbuffers.Builder(1 << 16)
    model.buffers = [_AlignedBuffer(buffer.data) for buffer in model.buffers]
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


class _AlignedBuffer:
    """A constant, laid where kernels may load whole vectors from it; the generated code does not align."""

    def __init__(self, data: Any) -> None:
        self.data = None if data is None else np.asarray(data, dtype=np.uint8)

    def Pack(self, builder: Any) -> Any:
        tables = schema()
        vector = None
        if self.data is not None and self.data.size:
            builder.StartVector(1, self.data.size, ALIGNMENT)
            builder.head = builder.Head() - self.data.size
            builder.Bytes[builder.head : builder.head + self.data.size] = self.data.tobytes()
            vector = builder.EndVector()
        tables.BufferStart(builder)
        if vector is not None:
            tables.BufferAddData(builder, vector)
        return tables.BufferEnd(builder)

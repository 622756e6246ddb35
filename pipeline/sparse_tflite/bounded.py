"""A flatbuffer that nobody vouches for, read within bounds.

The generated code believes what a file says of itself. Offsets may lead back, so that a small file unfolds into
millions of tables, and lengths may lie. TFLite's own verifier limits tables and depth for the same reason.
"""

from __future__ import annotations

from typing import Any

import flatbuffers

# No table takes less than eight bytes, its place in a vector included, and some are read twice.
BYTES_A_TABLE = 4
FEW_TABLES, MAX_TABLES = 1_000, 250_000
# A part that several tables refer to is read once for each; files that converters write hardly have any.
MAX_READING = 4
SLACK = 1 << 20


class BoundedBytes(bytes):
    """The file, and how much may still be read from it. What goes beyond raises `ValueError`."""

    def __init__(self, content: bytes) -> None:
        self.tables_left = min(FEW_TABLES + len(content) // BYTES_A_TABLE, MAX_TABLES)
        self.bytes_left = MAX_READING * len(content) + SLACK

    def count_table(self) -> None:
        """A table is about to be read."""
        self.tables_left -= 1
        if self.tables_left < 0:
            raise ValueError("unfolds into more tables than have room in it, or than a model has")

    def count_bytes(self, size: int) -> None:
        """So many bytes are about to be read."""
        self.bytes_left -= size
        if self.bytes_left < 0:
            raise ValueError(f"unfolds into more than {MAX_READING} times its size")


class BoundedTable(flatbuffers.table.Table):  # type: ignore[misc]
    """A table that counts, when it is in a `BoundedBytes`, what is read through it."""

    __slots__ = ()

    def __init__(self, buf: Any, pos: int) -> None:
        super().__init__(buf, pos)
        if isinstance(buf, BoundedBytes):
            buf.count_table()

    def String(self, off: int) -> bytes:
        found: bytes = super().String(off)
        if isinstance(self.Bytes, BoundedBytes):
            self.Bytes.count_bytes(len(found))
        return found

    def GetVectorAsNumpy(self, flags: Any, off: int) -> Any:
        if isinstance(self.Bytes, BoundedBytes):
            self.Bytes.count_bytes(self.VectorLen(off) * flags.bytewidth)
        return super().GetVectorAsNumpy(flags, off)

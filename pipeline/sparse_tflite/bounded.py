"""A flatbuffer that nobody vouches for, read within bounds.

The generated code believes what a file says of itself. Offsets may lead back, so that a small file unfolds into
millions of tables, and lengths may lie. TFLite's own verifier limits tables and depth for the same reason.
"""

from __future__ import annotations

import struct
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
    """A table that counts, when it is in a `BoundedBytes`, what is read through it.

    It finds its fields as flatbuffers does, in a quarter of the time: a model is thousands of tables.
    """

    __slots__ = ("fields", "fields_end")

    def __init__(self, buf: Any, pos: int) -> None:
        super().__init__(buf, _within(buf, pos))
        self.fields = -1
        if isinstance(buf, BoundedBytes):
            buf.count_table()

    def Offset(self, vtableOffset: int) -> int:
        if self.fields < 0:
            self.fields = _within(self.Bytes, self.Pos - _SIGNED(self.Bytes, self.Pos)[0])
            (self.fields_end,) = _SHORT(self.Bytes, self.fields)
        if vtableOffset >= self.fields_end:
            return 0
        found: int = _SHORT(self.Bytes, self.fields + vtableOffset)[0]
        return found

    def Get(self, flags: Any, off: int) -> Any:
        return flags.packer_type.unpack_from(self.Bytes, _within(self.Bytes, off))[0]

    def Indirect(self, off: int) -> int:
        found: int = off + _LONG(self.Bytes, _within(self.Bytes, off))[0]
        return found

    def String(self, off: int) -> bytes:
        found: bytes = super().String(off)
        if isinstance(self.Bytes, BoundedBytes):
            self.Bytes.count_bytes(len(found))
        return found

    def GetVectorAsNumpy(self, flags: Any, off: int) -> Any:
        if isinstance(self.Bytes, BoundedBytes):
            self.Bytes.count_bytes(self.VectorLen(off) * flags.bytewidth)
        return super().GetVectorAsNumpy(flags, off)


_SHORT, _SIGNED, _LONG = (struct.Struct(kind).unpack_from for kind in ("<H", "<i", "<I"))


def _within(content: bytes, place: int) -> int:
    """A place in the file; Python would take a negative one for one from the end."""
    if not 0 <= place < len(content):
        raise ValueError(f"a part of it would begin at byte {place:,}, and it has {len(content):,}")
    return place

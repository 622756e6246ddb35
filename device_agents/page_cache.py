"""What the page cache holds of a file, and having it dropped, without privileges (posix_fadvise(2), mincore(2))."""

from __future__ import annotations

import mmap
import os
from typing import Any


def evict(path: str) -> tuple[int | None, str | None]:
    """Have the kernel drop the file's pages. Bytes of it that are resident nevertheless, counted in whole pages, None
    where that cannot be told; and why the file is not cold now, None if it is.
    """
    with open(path, "rb") as stream:
        file = stream.fileno()
        if not hasattr(os, "posix_fadvise"):
            return None, "this Python cannot ask the kernel to drop a file from the page cache"
        try:
            # Only clean pages are dropped.
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            left = resident(file)
        except OSError as error:
            return None, f"dropping the file from the page cache failed: {error.strerror}"
    if left is None:
        return None, "nothing on this device tells what the page cache holds"
    if left:
        kept = "its file system keeps files there, or another program has it mapped"
        return left, f"{left} bytes of the file stay in memory: {kept}"
    return 0, None


def not_cold(left: int | None, reason: str) -> dict[str, Any]:
    """The event of a cold start that could not be had."""
    return {"event": "cold", "load_ns": None, "first_ns": None, "resident": left, "reason": reason}


def resident(file: int) -> int | None:
    """Bytes of this open file in the page cache, in whole pages; None where nothing tells. Raises OSError."""
    try:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        mincore = libc.mincore
    except (ImportError, OSError, AttributeError):
        return None
    size = os.fstat(file).st_size
    if not size:
        return 0
    # A copy on write is what ctypes takes the address of; nothing is written, and looking brings no page in.
    with mmap.mmap(file, size, access=mmap.ACCESS_COPY) as mapped:
        pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
        start = ctypes.c_char.from_buffer(mapped)
        failed = mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(size), pages)
        # The mapping cannot be closed while something points into it.
        del start
        if failed:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return mmap.PAGESIZE * sum(page & 1 for page in pages)

"""A .npy file that grows row by row: no more than one of them is in memory."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, BinaryIO

from device_agents.failure import Failure
from device_agents.files import replacing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Rows(contextlib.AbstractContextManager["Rows"]):
    """An array of `count` float32 rows in the file `path`, which takes its name when the block ends well."""

    def __init__(self, path: str, count: int) -> None:
        self._path, self._count = path, count
        self._shape: tuple[int, ...] | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Rows:
        os.makedirs(os.path.dirname(os.path.abspath(self._path)), exist_ok=True)
        self._stream: BinaryIO = self._stack.enter_context(replacing(self._path))
        return self

    def __exit__(self, *ending: Any) -> bool | None:
        return self._stack.__exit__(*ending)

    def add(self, row: NDArray[np.float32]) -> None:
        """The next row. The first of them tells the shape of all; raises Failure("model") for one of another shape."""
        import numpy as np

        if self._shape is None:
            self._shape = row.shape
            # Not np.save: on a full disk it raises an OSError that does not say so.
            header = {"descr": row.dtype.str, "fortran_order": False, "shape": (self._count, *row.shape)}
            np.lib.format.write_array_header_1_0(self._stream, header)
        if row.shape != self._shape:
            raise Failure("model", f"expected outputs of one shape, {self._shape}. Received: {row.shape}")
        self._stream.write(np.ascontiguousarray(row).data)

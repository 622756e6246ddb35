"""What a convolution sees: its inputs as rows, so that it becomes a product of matrices."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Padding = Literal["same", "valid"]


def patches(
    images: NDArray[Any],
    kernel_size: tuple[int, int],
    strides: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    padding: Padding = "valid",
) -> NDArray[Any]:
    """Images (n, height, width, channels) to (n, out height, out width, kernel height * width * channels).

    `patches(x) @ kernel.reshape(-1, filters)` is the convolution; an odd pixel of 'same' padding goes to the end.
    """
    if padding == "same":
        rows, columns = (
            _same(*axis) for axis in zip(images.shape[1:3], kernel_size, strides, dilation, strict=True)
        )
        images = np.pad(images, ((0, 0), rows, columns, (0, 0)))
    reach = tuple((size - 1) * step + 1 for size, step in zip(kernel_size, dilation, strict=True))
    windows = sliding_window_view(images, reach, axis=(1, 2))
    taken = windows[:, :: strides[0], :: strides[1], :, :: dilation[0], :: dilation[1]]
    n, height, width = taken.shape[:3]
    rows_first: NDArray[Any] = taken.transpose(0, 1, 2, 4, 5, 3).reshape(n, height, width, -1)
    return rows_first


def _same(length: int, size: int, stride: int, dilation: int) -> tuple[int, int]:
    total = max((-(-length // stride) - 1) * stride + (size - 1) * dilation + 1 - length, 0)
    return total // 2, total - total // 2

from __future__ import annotations

import keras
import numpy as np
import pytest

from pipeline.pruning.patches import Padding, patches


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(
    ("kernel_size", "strides", "dilation"),
    [
        ((3, 3), (1, 1), (1, 1)),
        ((2, 3), (2, 1), (1, 1)),
        ((4, 2), (3, 2), (1, 1)),
        ((3, 2), (1, 1), (2, 3)),
        ((1, 1), (2, 2), (1, 1)),
    ],
)
def test_patches_times_kernel_are_keras_convolution(
    kernel_size: tuple[int, int], strides: tuple[int, int], dilation: tuple[int, int], padding: Padding
) -> None:
    images = np.random.default_rng(0).normal(size=(2, 9, 8, 3)).astype(np.float32)
    convolution = keras.layers.Conv2D(
        5, kernel_size, strides=strides, dilation_rate=dilation, padding=padding, use_bias=False
    )
    expected = np.asarray(convolution(images))
    kernel = np.asarray(convolution.kernel).reshape(-1, 5)
    np.testing.assert_allclose(
        patches(images, kernel_size, strides, dilation, padding) @ kernel, expected, atol=1e-5
    )

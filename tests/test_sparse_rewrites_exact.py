"""Every rewrite against every small case of what it may meet: sizes, strides, dilations, paddings, readers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from pipeline.models.samples import by_name
from pipeline.sparse_tflite.flatbuffer import read_model, write_model
from pipeline.sparse_tflite.host_interpreter import answers_on_host
from pipeline.sparse_tflite.rewrites import rewrite
from pipeline.sparse_tflite.schema import schema
from tests.tflite_files import Drawing

RANDOM = np.random.default_rng(3)
RELU6 = 3
Place = tuple[int, int]


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def size_after(size: Place, kernel: Place, strides: Place, dilations: Place, padding: int) -> Place:
    wide = [(each - 1) * dilation + 1 for each, dilation in zip(kernel, dilations, strict=True)]
    reach = [
        at if padding == schema().Padding.SAME else at - wide_one + 1
        for at, wide_one in zip(size, wide, strict=True)
    ]
    return tuple(-(-each // stride) for each, stride in zip(reach, strides, strict=True))  # type: ignore[return-value]


def convolutions(size: Place) -> bytes:
    """All convolutions of an image of 3 channels, depthwise ones too, each an output."""
    drawing = Drawing()
    image = drawing.tensor((1, *size, 3))
    drawing.graph.inputs = [image]
    cases = itertools.product(
        (1, 2),
        ((3, 3), (1, 1), (3, 1)),
        ((2, 2), (1, 1), (2, 1)),
        ((1, 1), (2, 2)),
        (schema().Padding.SAME, schema().Padding.VALID),
        (0, RELU6),
    )
    for kind, kernel, strides, dilations, padding, activation in cases:
        after = size_after(size, kernel, strides, dilations, padding)
        if min(after) < 1 or (max(strides) > 1 and max(dilations) > 1):
            continue
        options: dict[str, Any] = {
            "padding": padding,
            "strideH": strides[0],
            "strideW": strides[1],
            "dilationHFactor": dilations[0],
            "dilationWFactor": dilations[1],
            "fusedActivationFunction": activation,
        }
        channels = 6 if kind == 1 else 4
        output = drawing.tensor((1, *after, channels))
        shape = (1, *kernel, 6) if kind == 1 else (4, *kernel, 3)
        reads = [image, drawing.tensor(shape, normal(*shape)), drawing.tensor((channels,), normal(channels))]
        if kind == 1:
            drawing.operator(
                "DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions", reads, output, depthMultiplier=2, **options
            )
        else:
            drawing.operator("CONV_2D", "Conv2DOptions", reads, output, **options)
        drawing.graph.outputs.append(output)
    return drawing.content


def means(size: Place, axes: tuple[int, ...] = (1, 2)) -> bytes:
    """1x1 convolutions after means: with all activations, with and without a bias, a mean with a second reader, and
    weights that two share."""
    drawing = Drawing()
    image = drawing.tensor((1, *size, 3))
    drawing.graph.inputs = [image]
    reduced = tuple(1 if at in axes else each for at, each in enumerate((1, *size, 3)))
    shared = drawing.tensor((4, 1, 1, reduced[3]), normal(4, 1, 1, reduced[3]))

    def mean() -> int:
        constant = drawing.tensor((len(axes),), np.array(axes, np.int32), "INT32")
        return drawing.operator(
            "MEAN", "ReducerOptions", [image, constant], drawing.tensor(reduced), keepDims=True
        )

    def convolution(pixel: int, weights: int, bias: int, **options: int) -> None:
        output = drawing.tensor((1, *reduced[1:3], 4))
        given = {"strideH": 1, "strideW": 1, "padding": schema().Padding.VALID} | options
        drawing.operator("CONV_2D", "Conv2DOptions", [pixel, weights, bias], output, **given)
        drawing.graph.outputs.append(output)

    def own() -> int:
        return drawing.tensor((4, 1, 1, reduced[3]), normal(4, 1, 1, reduced[3]))

    for activation in range(5):
        convolution(mean(), own(), drawing.tensor((4,), normal(4)), fusedActivationFunction=activation)
    convolution(mean(), own(), drawing.tensor((4,), normal(4)), strideH=2, strideW=2)
    convolution(mean(), own(), drawing.tensor((4,), normal(4)), padding=schema().Padding.SAME)
    twice = mean()
    convolution(twice, own(), drawing.tensor((4,), normal(4)))
    convolution(twice, own(), drawing.tensor((4,), normal(4)))
    convolution(mean(), shared, drawing.tensor((4,), normal(4)))
    convolution(mean(), shared, drawing.tensor((4,), normal(4)))
    tapped = mean()
    convolution(tapped, own(), drawing.tensor((4,), normal(4)))
    drawing.graph.outputs.append(tapped)
    return drawing.content


def check(content: bytes, size: Place) -> dict[str, int]:
    """That the file and what becomes of it answer the same; how often each rewrite fitted."""
    rewritten, done = rewrite(content)
    inputs = np.random.default_rng(4).normal(size=(2, *size, 3)).astype(np.float32)
    before, after = map(by_name, answers_on_host([content, rewritten], inputs))
    assert list(before) == list(after)
    for name, expected in before.items():
        np.testing.assert_allclose(after[name], expected, rtol=0, atol=2e-6 * max(1, np.abs(expected).max()))
    return done


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 2), (3, 3), (2, 3), (4, 2), (5, 4), (6, 8)])
def test_of_all_convolutions_only_what_stays_the_same_is_rewritten(size: Place) -> None:
    done = check(convolutions(size), size)
    # With either activation.
    fitting = 2 if size[0] % 2 == size[1] % 2 == 0 else 0
    assert (done["stem"], done["strided_depthwise"]) == (fitting, fitting)


@pytest.mark.parametrize(
    ("axes", "fitting"), [((1, 2), 6), ((2, 1), 6), ((1, 2, 3), 6), ((0, 1, 2), 6), ((1,), 0)]
)
def test_convolutions_after_a_mean_are_rewritten_where_they_alone_read_it(axes: Any, fitting: int) -> None:
    assert check(means((2, 3), axes), (2, 3))["convolution_after_mean"] == fitting


def test_an_image_whose_size_is_open_stays() -> None:
    model = read_model(convolutions((4, 4)), "fixed")
    model.subgraphs[0].tensors[0].shapeSignature = [1, -1, -1, 3]
    content = write_model(model)
    assert rewrite(content)[0] == content


def test_a_graph_that_reads_its_own_output_comes_to_an_end() -> None:
    drawing = Drawing()
    drawing.graph.inputs = [drawing.tensor((1, 2, 2, 3))]
    axes = drawing.tensor((2,), np.array([1, 2], np.int32), "INT32")
    pixel = drawing.operator("MEAN", "ReducerOptions", [0, axes], drawing.tensor((1, 1, 1, 3)), keepDims=True)
    reads = [pixel, drawing.tensor((4, 1, 1, 3), normal(4, 1, 1, 3)), -1]
    found = drawing.operator("CONV_2D", "Conv2DOptions", reads, drawing.tensor((1, 1, 1, 4)))
    drawing.graph.outputs = [drawing.operator("ADD", "AddOptions", [found, found], found)]
    assert rewrite(drawing.content)[1]["convolution_after_mean"] == 1

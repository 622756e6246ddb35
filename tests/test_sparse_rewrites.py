from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import model_files
from pipeline.errors import UserError
from pipeline.progress import Progress
from pipeline.sparse_tflite import runtimes
from pipeline.sparse_tflite.decide import choose
from pipeline.sparse_tflite.flatbuffer import read_model, write_model
from pipeline.sparse_tflite.host_interpreter import outputs_on_host
from pipeline.sparse_tflite.operators import read_graphs
from pipeline.sparse_tflite.rewrites import load, names, rewrite
from tests.sparse_networks import depthwise, network, sparse_file, tensorflow_file

LITERT = runtimes.load("ai-edge-litert")


def strided() -> Any:
    """Three strides: of a 12x8, a 6x4 and a 3x2 image, of which the last is odd."""
    import keras

    image = tensor = keras.Input((12, 8, 3), batch_size=1)
    for _ in range(3):
        tensor = depthwise(tensor, strides=2)
    return keras.Model(image, keras.layers.Flatten()(tensor))


def heads() -> Any:
    """A squeeze-and-excite block, which stays as it is, and a convolution after the mean."""
    import keras

    layers = keras.layers
    image = keras.Input((6, 4, 8), batch_size=1)
    scale = layers.Conv2D(8, 1, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(image))
    mean = layers.GlobalAveragePooling2D(keepdims=True)(layers.Multiply()([image, scale]))
    return keras.Model(image, layers.Flatten()(layers.Conv2D(5, 1, activation="relu")(mean)))


def stem() -> Any:
    import keras

    image = keras.Input((12, 8, 3), batch_size=1)
    tensor = keras.layers.Conv2D(5, 3, 2, "same", activation="relu6")(image)
    return keras.Model(image, keras.layers.Flatten()(tensor))


def open_batch() -> Any:
    import keras

    image = keras.Input((4, 4, 2))
    return keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(image)))


MODELS = {
    "strided_depthwise": (strided, 2),
    "convolution_after_mean": (heads, 1),
    "stem": (stem, 1),
    "batch_one": (open_batch, 1),
}


@functools.cache
def file(name: str, float16: bool = False) -> bytes:
    import keras

    keras.utils.set_random_seed(1)
    model = MODELS[name][0]()
    random = np.random.default_rng(1)
    model.set_weights([random.normal(size=weights.shape) for weights in model.get_weights()])
    return tensorflow_file(model, sparse=False, float16=float16)


def kinds(content: bytes) -> Counter[str]:
    (graph,) = read_graphs(content, "file")
    return Counter(each.kind for each in graph.computing)


def answers(content: bytes) -> np.ndarray:
    (graph,) = read_graphs(content, "file")
    (image,) = graph.inputs
    inputs = np.random.default_rng(2).normal(size=(16, *graph.tensors[image].shape[1:])).astype(np.float32)
    return outputs_on_host(content, inputs)


def test_every_rewrite_has_a_model_here() -> None:
    assert set(names()) == {*MODELS, "zero_bias"}, "the last is for int8: see test_precision"
    assert all(load(name).SENTENCE for name in names())


@pytest.mark.parametrize("name", MODELS)
def test_the_rewritten_file_answers_the_same(name: str) -> None:
    content = file(name)
    rewritten, done = rewrite(content, [name])
    assert done == {name: MODELS[name][1]}
    expected = answers(content)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(answers(rewritten), expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    again, done = rewrite(rewritten, [name])
    assert done == {name: 0}
    assert again == rewritten


def test_a_wider_kernel_gives_the_same_bits() -> None:
    content = file("strided_depthwise")
    np.testing.assert_array_equal(answers(rewrite(content)[0]), answers(content))


def test_half_precision_weights_are_rewritten_where_they_are_stored() -> None:
    content = file("strided_depthwise", True)
    rewritten, done = rewrite(content, ["strided_depthwise"])
    assert done == {"strided_depthwise": 2}
    np.testing.assert_array_equal(answers(rewritten), answers(content))


def test_what_is_rewritten_and_what_stays() -> None:
    before, after = kinds(file("convolution_after_mean")), kinds(rewrite(file("convolution_after_mean"))[0])
    assert (before["CONV_2D"], after["CONV_2D"], after["FULLY_CONNECTED"]) == (2, 1, 1)
    assert "SHAPE" in kinds(file("batch_one"))
    assert set(kinds(rewrite(file("batch_one"))[0])) == {"RESHAPE", "FULLY_CONNECTED"}
    (graph,) = read_graphs(rewrite(file("batch_one"))[0], "fixed")
    assert all(tensor.fixed for tensor in graph.tensors)


@pytest.mark.parametrize("name", ["base", "squeeze-excite", "residual", "1 channel"])
def test_what_is_inside_the_rules_or_no_case_of_ours_stays_to_the_byte(name: str) -> None:
    content = sparse_file(name)
    assert rewrite(content) == (content, dict.fromkeys(names(), 0))


def test_a_network_as_keras_has_them_is_brought_inside_the_rules() -> None:
    content = tensorflow_file(network("like MobileNet"), sparse=False)
    before = choose(read_graphs(content, "before"), LITERT, "arm").values()
    assert "runs sparse" not in {each.outcome for each in before}
    rewritten, done = rewrite(content)
    assert {name for name, count in done.items() if count == 1} == {
        "convolution_after_mean",
        "stem",
        "strided_depthwise",
    }
    (graph,) = read_graphs(rewritten, "after")
    after = [
        choose([graph], LITERT, "arm")[0, each.weights.number] for each in graph.computing if each.weights
    ]
    pruned = [
        found
        for found, each in zip(after, (each for each in graph.computing if each.weights), strict=True)
        if each.weights and each.kind == "CONV_2D" and each.weights.zeros > 0.5 and each.weights.shape[1] == 1
    ]
    assert {each.outcome for each in pruned} == {"runs sparse"}
    expected = answers(content)
    np.testing.assert_allclose(answers(rewritten), expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_a_batch_stays_open_in_a_model_of_several_subgraphs() -> None:
    model = read_model(file("batch_one"), "open")
    model.subgraphs = [*model.subgraphs, *model.subgraphs]
    content = write_model(model)
    assert rewrite(content, ["batch_one"]) == (content, {"batch_one": 0})


def test_an_unknown_rewrite_is_told() -> None:
    with pytest.raises(UserError, match="known: batch_one"):
        rewrite(sparse_file("base"), ["stems"])


@pytest.mark.parametrize("seed", range(2))
def test_a_damaged_file_is_refused_or_rewritten_never_worse(seed: int) -> None:
    random = np.random.default_rng(seed)
    for _ in range(15):
        content = bytearray(file("strided_depthwise"))
        for place in random.integers(8, len(content), random.integers(1, 9)):
            content[place] = random.integers(256)
        try:
            rewrite(bytes(content), name="damaged")
        except UserError as error:
            assert "damaged" in str(error)


def test_the_command_compares_before_it_writes(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(file("stem"))
    done = model_files.rewrite(tmp_path / "model.tflite", tmp_path / "out.tflite", [], Progress())
    assert done["rewrites"]["stem"] == 1
    assert (tmp_path / "out.tflite").read_bytes() == rewrite(file("stem"))[0]
    assert done["agreement"]["agrees"]

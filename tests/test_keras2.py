"""Models of Keras 2: rebuilt in Keras 3, they compute what numpy says they computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from pipeline.artifacts import Artifact
from pipeline.errors import UserError
from pipeline.models import sources
from pipeline.models.keras2_operations import GET_ITEM, OPERATIONS, Operation
from pipeline.models.load import ENDINGS, load_model, save_model
from pipeline.pruning import importance
from pipeline.pruning.prune import prune_model
from tests.keras2_files import dense, entrance, functional, layer, write_h5, write_saved_model

RANDOM = np.random.default_rng(5)


def some(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def load(path: Path) -> Any:
    return load_model(sources.parse(path.name, path.parent, ENDINGS).artifact())


def answers(model: Any, x: np.ndarray) -> np.ndarray:
    return np.asarray(model(x, training=False))


def hard_sigmoid(x: np.ndarray) -> np.ndarray:
    """Keras 2's."""
    return np.clip(0.2 * x + 0.5, 0, 1)


def convolutional() -> tuple[Any, dict[str, list[tuple[str, np.ndarray]]], Any]:
    """A depthwise 1 x 1 convolution, batch norm, ReLU6 and a Dense, as MLPerf Tiny's; and what it computes."""
    k, b = some(1, 1, 3, 1), some(3)
    norm = [some(3), some(3), some(3), np.abs(some(3)) + 0.5]
    w, c = some(12, 2), some(2)
    layers = [
        entrance("input_1", 2, 2, 3),
        layer(
            *("DepthwiseConv2D", "dw", "input_1"),
            **{"kernel_size": [1, 1], "strides": [1, 1], "padding": "same", "data_format": "channels_last"},
            **{
                "dilation_rate": [1, 1],
                "groups": 1,
                "depth_multiplier": 1,
                "use_bias": True,
                "activation": "linear",
            },
            depthwise_initializer={"class_name": "GlorotUniform", "config": {"seed": None}},
            depthwise_regularizer={"class_name": "L2", "config": {"l2": 1e-4}},
        ),
        layer(
            "BatchNormalization", "bn", "dw", axis=[3], momentum=0.99, epsilon=1e-3, center=True, scale=True
        ),
        layer("ReLU", "relu", "bn", max_value=6.0, negative_slope=0.0, threshold=0.0),
        layer("Flatten", "flat", "relu", data_format="channels_last"),
        dense("out", 2, "flat"),
    ]
    weights = {
        "input_1": [],
        "dw": [("depthwise_kernel", k), ("bias", b)],
        "bn": list(zip(("gamma", "beta", "moving_mean", "moving_variance"), norm, strict=True)),
        "relu": [],
        "flat": [],
        "out": [("kernel", w), ("bias", c)],
    }

    def expected(x: np.ndarray) -> np.ndarray:
        y = x * k[0, 0, :, 0] + b
        y = (y - norm[2]) / np.sqrt(norm[3] + 1e-3) * norm[0] + norm[1]
        return np.clip(y, 0, 6).reshape(len(x), -1) @ w + c

    return functional(layers, ["out", 0, 0]), weights, expected


@pytest.mark.parametrize("parts", [1, 3])
def test_an_h5_file_computes_what_it_did(tmp_path: Path, parts: int) -> None:
    config, weights, expected = convolutional()
    model = load(write_h5(tmp_path / "m.h5", config, weights, parts=parts))
    x = some(4, 2, 2, 3)
    np.testing.assert_allclose(answers(model, x), expected(x), atol=1e-5)
    assert model.get_layer("dw").depthwise_regularizer.l2 == pytest.approx(1e-4)
    save_model(model, tmp_path / "again.keras")
    np.testing.assert_array_equal(answers(load(tmp_path / "again.keras"), x), answers(model, x))
    options = importance.load("magnitude").Options()
    assert {each.layer for each in prune_model(model, "magnitude", 0.5, options, None).decisions} == set(
        weights
    )


def test_a_saved_model_computes_what_it_did(tmp_path: Path) -> None:
    config, weights, expected = convolutional()
    model = load(write_saved_model(tmp_path / "saved", config, weights))
    x = some(4, 2, 2, 3)
    np.testing.assert_allclose(answers(model, x), expected(x), atol=1e-5)


def test_a_saved_models_digest_covers_every_file(tmp_path: Path) -> None:
    config, weights, _ = convolutional()
    path = write_saved_model(tmp_path / "saved", config, weights)
    before = sources.parse("saved", tmp_path, ENDINGS).artifact()
    assert before.kind == "saved_model" and before == sources.parse("saved/", tmp_path, ENDINGS).artifact()
    data = next(path.glob("variables/*.data*"))
    data.write_bytes(bytes(data.stat().st_size))
    assert sources.parse("saved", tmp_path, ENDINGS).artifact().digest != before.digest


def test_an_exported_model_is_refused_with_the_way_there_is(tmp_path: Path) -> None:
    config, weights, _ = convolutional()
    path = write_saved_model(tmp_path / "saved", config, weights)
    (path / "keras_metadata.pb").unlink()
    with pytest.raises(UserError, match=r"no Keras layers, as model.export.*model.save\('model.keras'\)"):
        load(path)


@pytest.mark.parametrize("name", ["keras_metadata.pb", "variables/variables.index"])
def test_a_damaged_saved_model_is_told(tmp_path: Path, name: str) -> None:
    config, weights, _ = convolutional()
    path = write_saved_model(tmp_path / "saved", config, weights)
    (path / name).write_bytes(b"\xff\xff\xff nothing")
    with pytest.raises(UserError, match="not a whole SavedModel"):
        load(path)


def test_a_sequential_model_without_an_entrance_of_its_own(tmp_path: Path) -> None:
    w, b = some(4, 3), some(3)
    first = dense("first", 3, activation="softmax_v2")
    first["config"]["batch_input_shape"] = {"class_name": "__tuple__", "items": [None, 4]}
    dropout = layer("Dropout", "drop", rate=0.5, noise_shape=None, seed=None)
    config = {"class_name": "Sequential", "config": {"name": "s", "layers": [first, dropout]}}
    model = load(write_h5(tmp_path / "m.h5", config, {"first": [("kernel", w), ("bias", b)], "drop": []}))
    x = some(5, 4)
    z = np.exp(x @ w + b)
    np.testing.assert_allclose(answers(model, x), z / z.sum(axis=1, keepdims=True), atol=1e-6)


def test_shared_layers_models_within_and_functions_between(tmp_path: Path) -> None:
    w, b, v, c = some(3, 3), some(3), some(3, 3), some(3)
    inner = functional([entrance("inner_in", 3), dense("d", 3, "inner_in")], ["d", 0, 0], "inner")
    layers = [
        entrance("i", 3),
        dense("shared", 3, "i", [["inner", 1, 0, {}]], activation="tanh"),
        {**inner, "name": "inner", "inbound_nodes": [[["shared", 0, 0, {}]], [["shared", 1, 0, {}]]]},
        layer(
            "TFOpLambda",
            "tf.math.multiply",
            ["inner", 2, 0, {"y": 0.5, "name": None}],
            function="math.multiply",
        ),
        layer(
            *("TFOpLambda", "tf.__operators__.add", ["tf.math.multiply", 0, 0, {"y": ["shared", 0, 0]}]),
            function="__operators__.add",
        ),
        layer("Concatenate", "both", [["tf.__operators__.add", 0, 0, {}], ["i", 0, 0, {}]], axis=-1),
    ]
    weights = {"i": [], "shared": [("kernel", w), ("bias", b)], "inner": [("kernel", v), ("bias", c)]}
    model = load(write_h5(tmp_path / "m.h5", functional(layers, ["both", 0, 0]), weights))
    x = some(5, 3)
    first = np.tanh(x @ w + b)
    second = np.tanh((first @ v + c) @ w + b) @ v + c
    np.testing.assert_allclose(
        answers(model, x), np.concatenate([second * 0.5 + first, x], axis=1), atol=1e-6
    )


def test_the_hard_sigmoid_of_keras_2_is_kept(tmp_path: Path) -> None:
    k, r, b, w, c = some(2, 8), some(2, 8), some(8), some(2, 2), some(2)
    recurrent = {"activation": "tanh", "recurrent_activation": "hard_sigmoid", "time_major": False}
    layers = [
        entrance("i", 3, 2),
        layer(
            "LSTM", "lstm", "i", units=2, use_bias=True, implementation=1, unit_forget_bias=True, **recurrent
        ),
        dense("d", 2, "lstm", activation="hard_sigmoid"),
        layer("Activation", "a", "d", activation="hard_sigmoid"),
    ]
    weights = {
        "i": [],
        "lstm": [("lstm_cell/kernel", k), ("lstm_cell/recurrent_kernel", r), ("lstm_cell/bias", b)],
        "d": [("kernel", w), ("bias", c)],
        "a": [],
    }
    model = load(write_h5(tmp_path / "m.h5", functional(layers, ["a", 0, 0]), weights))
    x = some(6, 3, 2)
    h = state = np.zeros((6, 2))
    for step in range(3):
        i, f, g, o = np.split(x[:, step] @ k + h @ r + b, 4, axis=1)
        state = hard_sigmoid(f) * state + hard_sigmoid(i) * np.tanh(g)
        h = hard_sigmoid(o) * np.tanh(state)
    expected = hard_sigmoid(hard_sigmoid(h @ w + c))
    np.testing.assert_allclose(answers(model, x), expected, atol=1e-6)


def test_a_recurrent_layer_gets_the_state_it_was_given(tmp_path: Path) -> None:
    k, r, b = some(2, 2), some(2, 2), some(2)
    rnn = {"units": 2, "activation": "tanh", "use_bias": True}
    layers = [
        entrance("i", 3, 2),
        layer("GlobalMaxPooling1D", "state", "i", data_format="channels_last", keepdims=False),
        layer("SimpleRNN", "rnn", [["i", 0, 0, {}], ["state", 0, 0, {}]], **rnn),
    ]
    weights = {"rnn": [("kernel", k), ("recurrent_kernel", r), ("bias", b)]}
    model = load(write_h5(tmp_path / "m.h5", functional(layers, ["rnn", 0, 0]), weights))
    x = some(4, 3, 2)
    h = x.max(axis=1)
    for step in range(3):
        h = np.tanh(x[:, step] @ k + h @ r + b)
    np.testing.assert_allclose(answers(model, x), h, atol=1e-6)


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_function_has_its_counterpart(name: str) -> None:
    called, names = OPERATIONS[name]
    assert callable(getattr(keras.ops, called))
    x, y = keras.Input((3, 3)), keras.Input((3, 3))
    given: dict[str, Any] = {"y": y, "b": y, "axis": 1, "keepdims": True, "dtype": "float16", "alpha": 0.1}
    given |= {"perm": [0, 2, 1], "shape": [-1, 9], "clip_value_min": 0.0, "clip_value_max": 1.0}
    several = name in ("concat", "stack")
    first = keras.Input((1, 3)) if name == "squeeze" else [x, y] if several else x
    made = Operation(name, "tf.named")(first, **{key: given[key] for key in names}, name=None)
    assert made._keras_history.operation.name == "tf.named"


def test_what_stood_in_brackets_is_taken() -> None:
    x = keras.Input((4, 3))
    spec = [{"start": None, "stop": None, "step": None}, 1, {"start": 0, "stop": 2, "step": None}]
    made = Operation(GET_ITEM, "tf.slice")(x, slice_spec=spec)
    value = some(2, 4, 3)
    np.testing.assert_array_equal(answers(keras.Model(x, made), value), value[:, 1, :2])


def test_all_that_cannot_be_rebuilt_is_told_at_once(tmp_path: Path) -> None:
    convolution = {"kernel_size": [1, 1], "groups": 2, "depth_multiplier": 1}
    layers = [
        entrance("i", 2, 2, 4),
        layer("DepthwiseConv2D", "dw", "i", **convolution),
        layer("Lambda", "code", "dw", function=["4wEAAAA=", None, None]),
        layer("CuDNNLSTM", "fast", "code", units=3),
        layer("MyOwn", "mine", "fast"),
        layer("TFOpLambda", "tf.fft", ["mine", 0, 0, {}], function="signal.fft"),
        dense("odd", 3, "tf.fft", activation="sinusoid"),
    ]
    path = write_h5(tmp_path / "m.h5", functional(layers, ["odd", 0, 0]), {})
    with pytest.raises(UserError) as caught:
        load(path)
    said = [problem.removeprefix(f"{path}: written by Keras 2: ") for problem in caught.value.problems]
    assert [words.split(":")[0] for words in said] == [
        "layer 'dw' (DepthwiseConv2D)",
        "layer 'code' (Lambda)",
        "layer 'fast' (CuDNNLSTM)",
        "layer 'mine' (MyOwn)",
        "layer 'tf.fft' (tf.signal.fft)",
        "layer 'odd' (Dense)",
    ]
    assert "groups=2" in said[0] and "sinusoid" in said[5]


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        ([("kernel", np.zeros((4, 3), np.float32))], "expected 2 weights, the file holds 1"),
        ([("kernel", np.zeros((5, 3))), ("bias", np.zeros(3))], r"expected kernel of shape \(4, 3\)"),
        ([("kernel", np.zeros((4, 3))), ("gamma", np.zeros(3))], "expected bias .* holds gamma"),
    ],
)
def test_weights_that_are_not_the_layers_are_told(tmp_path: Path, kernel: Any, words: str) -> None:
    config = functional([entrance("i", 4), dense("d", 3, "i")], ["d", 0, 0])
    with pytest.raises(UserError, match=words):
        load(write_h5(tmp_path / "m.h5", config, {"d": kernel}))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "holds weights alone"),
        ({"class_name": "MyModel", "config": {}}, "a class of its own"),
        ({"class_name": "Functional"}, "cannot be rebuilt: KeyError"),
        (
            functional([entrance("i", 4), dense("d", 3, "e"), dense("e", 3, "d")], ["d", 0, 0]),
            "have no beginning",
        ),
    ],
)
def test_a_file_that_holds_no_model_is_told(tmp_path: Path, config: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load(write_h5(tmp_path / "m.h5", config, {}))


def test_a_file_cut_short_is_told(tmp_path: Path) -> None:
    config, weights, _ = convolutional()
    path = write_h5(tmp_path / "m.h5", config, weights)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"m\.h5"):
        load_model(Artifact("0", "h5", path))

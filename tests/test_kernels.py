"""Kernels within layers: names, what enters them against loops written by hand, and how outputs depend on them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from pipeline.models.einsum import Einsum
from pipeline.models.graph import Graph
from pipeline.models.kernels import kernel_named, kernels_of, why_not_pruned
from pipeline.models.observation import entering, observed
from pipeline.models.operations import multiply_accumulates
from pipeline.models.sensitivity import sensitivity
from pipeline.pruning import importance
from pipeline.pruning.budget import Budget
from pipeline.pruning.keras_layers import kernel_moments
from pipeline.pruning.prune import PrunedModel, prune_model
from pipeline.pruning.recovery import fine_tune
from pipeline.pruning.rules import Rule

X = np.random.default_rng(0).normal(size=(7, 5, 3)).astype(np.float32)
X[2, 3:] = X[5, 1:] = 0  # masked, where there is a mask
COUNTED = np.any(X != 0, axis=2)


def with_random_weights(model: Any, size: float = 1.0) -> Any:
    random = np.random.default_rng(1)
    model.set_weights([size * random.normal(size=weight.shape) for weight in model.get_weights()])
    return model


def sequence_model(*within: Any) -> Any:
    return with_random_weights(keras.Sequential([keras.Input((5, 3)), *within]), 0.5)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def lstm_step(weights: Any, x: Any, h: Any, c: Any) -> Any:
    kernel, recurrent, bias = weights
    i, f, g, o = np.split(x @ kernel + h @ recurrent + bias, 4, axis=1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru_step(weights: Any, x: Any, h: Any, c: Any) -> Any:
    kernel, recurrent, (bias, recurrent_bias) = weights
    x_z, x_r, x_g = np.split(x @ kernel + bias, 3, axis=1)
    h_z, h_r, h_g = np.split(h @ recurrent + recurrent_bias, 3, axis=1)
    z = sigmoid(x_z + h_z)
    return z * h + (1 - z) * np.tanh(x_g + sigmoid(x_r + h_r) * h_g), c


def simple_step(weights: Any, x: Any, h: Any, c: Any) -> Any:
    kernel, recurrent, bias = weights
    return np.tanh(x @ kernel + h @ recurrent + bias), c


def states_before(step: Any, weights: Any, x: Any, counted: Any) -> Any:
    """The state h_(t-1) that each step (n, t) begins with; steps that do not count leave it as it is."""
    h, c = np.zeros((2, len(x), len(weights[1])))
    found = []
    for t in range(x.shape[1]):
        found.append(h)
        after, now = counted[:, t, None], step(weights, x[:, t], h, c)
        h, c = np.where(after, now[0], h), np.where(after, now[1], c)
    return np.stack(found, axis=1)


STEPS = {"LSTM": lstm_step, "GRU": gru_step, "SimpleRNN": simple_step}


@pytest.mark.parametrize("options", [{}, {"go_backwards": True, "unroll": True}])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", sorted(STEPS))
def test_the_moments_of_a_recurrent_layer_are_those_of_a_loop_written_by_hand(
    kind: str, masked: bool, options: dict[str, bool]
) -> None:
    model = sequence_model(
        *([layers.Masking()] if masked else []), getattr(layers, kind)(4, name="r", **options)
    )
    weights = model.get_layer("r").get_weights()
    counted = COUNTED if masked else np.ones_like(COUNTED)
    x, counted = (X[:, ::-1], counted[:, ::-1]) if options else (X, counted)
    h = states_before(STEPS[kind], weights, x.astype(np.float64), counted)
    wired = Graph(model)
    for name, inputs in (("r/kernel", x), ("r/recurrent_kernel", h)):
        rows = inputs[counted].astype(np.float64)
        found = kernel_moments(name, wired, wired, X)
        np.testing.assert_allclose(found.hessian, 2 * rows.T @ rows / len(rows), atol=1e-5)
        assert not found.drift.any()
    assert model.get_layer("r").unroll is bool(options) and "call" not in vars(model.get_layer("r").cell)


def test_what_pruning_did_to_the_states_is_in_the_drift() -> None:
    trained = sequence_model(layers.LSTM(4, name="r"))
    now = keras.models.clone_model(trained)
    now.set_weights(trained.get_weights())
    now.get_layer("r").cell.kernel.assign(0.5 * trained.get_layer("r").cell.kernel)
    found = kernel_moments("r/recurrent_kernel", Graph(trained), Graph(now), X)
    h, h0 = (
        states_before(
            lstm_step, model.get_layer("r").get_weights(), X.astype(np.float64), np.ones((7, 5), bool)
        ).reshape(-1, 4)
        for model in (now, trained)
    )
    np.testing.assert_allclose(found.drift, 2 * h.T @ (h0 - h) / len(h), atol=1e-5)


def test_both_directions_and_what_is_repeated_over_time_are_observed_each_on_its_own() -> None:
    model = sequence_model(
        layers.Bidirectional(layers.LSTM(4, return_sequences=True), name="both"),
        layers.TimeDistributed(layers.Dense(2), name="each"),
    )
    wired = Graph(model)
    names = [kernel.name for node in wired.layers() for kernel in kernels_of(node)]
    within = ("kernel", "recurrent_kernel")
    assert names == [*(f"both/{side}/{part}" for side in ("forward", "backward") for part in within), "each"]
    weights = model.get_layer("both").get_weights()
    for side, own, x in (("forward", weights[:3], X), ("backward", weights[3:], X[:, ::-1])):
        h = states_before(lstm_step, own, x.astype(np.float64), np.ones((7, 5), bool)).reshape(-1, 4)
        found = kernel_moments(f"both/{side}/recurrent_kernel", wired, wired, X)
        np.testing.assert_allclose(found.hessian, 2 * h.T @ h / len(h), atol=1e-5)
    rows = np.asarray(model.get_layer("both")(X)).reshape(-1, 8)
    found = kernel_moments("each", wired, wired, X)
    np.testing.assert_allclose(found.hessian, 2 * rows.T @ rows / len(rows), atol=1e-5)


def attention_model() -> Any:
    sequence, other = keras.Input((5, 3)), layers.Dense(4, name="other")
    attended = layers.MultiHeadAttention(2, 3, value_dim=4, name="attention")(sequence, other(sequence))
    return with_random_weights(
        keras.Model(sequence, layers.EinsumDense("abc,cd->ad", (2,), name="sum")(attended))
    )


def test_what_enters_the_kernels_of_attention() -> None:
    model = attention_model()
    wired = Graph(model)
    attention = model.get_layer("attention")
    assert [kernel.name for kernel in kernels_of(wired.nodes["attention"])] == [
        f"attention/{part}/kernel" for part in ("query", "key", "value", "output")
    ]
    other = np.asarray(model.get_layer("other")(X))
    query, key, value = (
        np.einsum("abc,cde->abde", x, layer.kernel) + layer.bias
        for layer, x in (
            (attention.query_dense, X),
            (attention.key_dense, other),
            (attention.value_dense, other),
        )
    )
    scores = np.exp(np.einsum("aqhd,akhd->ahqk", query, key) / np.sqrt(3))
    heads = np.einsum("ahqk,akhd->aqhd", scores / scores.sum(axis=-1, keepdims=True), value)
    for part, rows in (("query", X), ("key", other), ("value", other), ("output", heads.reshape(7, 5, 8))):
        found = kernel_moments(f"attention/{part}/kernel", wired, wired, X)
        flat = rows.reshape(35, -1).astype(np.float64)
        np.testing.assert_allclose(found.hessian, 2 * flat.T @ flat / 35, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("abc,cd->abd", ((2, 3, 4), (4, 5))),
        ("abc,cde->abde", ((2, 3, 4), (4, 5, 6))),
        ("abcd,cde->abe", ((2, 3, 4, 5), (4, 5, 6))),
        ("abc,cd->dab", ((2, 3, 4), (4, 5))),
        ("...x,xy->...y", ((2, 3, 4), (4, 5))),
        ("x...,xyz->yz...", ((4, 2, 3), (4, 5, 6))),
    ],
)
def test_an_einsum_is_the_product_of_its_rows_and_its_matrix(
    equation: str, shapes: tuple[tuple[int, ...], ...]
) -> None:
    random = np.random.default_rng(2)
    x, kernel = (random.normal(size=shape) for shape in shapes)
    written = Einsum(equation)
    assert written.why_no_matrix() is None
    rows = written.input_rows(x)
    product = rows @ kernel.reshape(rows.shape[1], -1)
    np.testing.assert_allclose(written.output_rows(np.einsum(equation, x, kernel)), product)


@pytest.mark.parametrize("equation", ["abc,dc->abd", "abc,bcd->abd", "abc,cd->ad"])
def test_an_einsum_that_is_no_product_of_matrices_is_told(equation: str) -> None:
    assert "axes are not those" in str(Einsum(equation).why_no_matrix())


def test_what_a_method_cannot_see_is_told_and_magnitude_prunes_it() -> None:
    wired = Graph(
        sequence_model(
            layers.SeparableConv1D(3, 2, name="separable"),
            layers.GRU(3, reset_after=False, return_sequences=True, name="gru"),
            layers.RNN(layers.StackedRNNCells([layers.LSTMCell(3)]), name="stacked"),
            layers.EinsumDense("ab,cb->ac", (2,), name="turned"),
        )
    )
    reasons = {
        kernel.name: (why_not_pruned(kernel), why_not_pruned(kernel, calibrated=True))
        for node in wired.layers()
        for kernel in kernels_of(node)
    }
    assert "not seen" in str(reasons["separable"][1]) and reasons["separable"][0] is None
    assert reasons["gru/kernel"] == (None, None)
    assert "after the reset gate" in str(reasons["gru/recurrent_kernel"][1])
    assert reasons["gru/recurrent_kernel"][0] is None
    assert "axes are not those" in str(reasons["turned"][0])
    assert "stacked" not in reasons


def test_a_stateful_layer_cannot_be_calibrated() -> None:
    subject = keras.Sequential([keras.Input((5, 3), batch_size=4), layers.LSTM(2, stateful=True, name="r")])
    options = importance.load("hessian").Options()
    with pytest.raises(ValueError, match=r"'r' carries its state .* stateful=False, or prune by magnitude"):
        prune_model(subject, "hessian", 0.5, options, X[:4])
    assert prune_model(subject, "magnitude", 0.5, importance.load("magnitude").Options(), None).masks


RECURRENT = [
    layers.LSTM,
    layers.GRU,
    lambda *units, **options: layers.GRU(*units, **options, reset_after=False),
    lambda *units, **options: layers.SimpleRNN(*units, **options, use_bias=False),
]


@pytest.mark.parametrize("made", RECURRENT)
def test_products_are_told_without_changing_what_the_layer_computes(made: Any) -> None:
    model = sequence_model(layers.Masking(), made(4, name="r"))
    kernels = kernels_of(Graph(model).nodes["r"])
    seen: list[str] = []
    with observed(kernels, lambda name, x, product: seen.append(name)):
        found = model(X, training=False)
    np.testing.assert_allclose(found, model(X, training=False), atol=1e-6)
    told = {kernel.name for kernel in kernels if why_not_pruned(kernel, calibrated=True) is None}
    assert set(seen) == told and len(seen) == 5 * len(told)


@pytest.mark.parametrize("name", ["r/kernel", "r/recurrent_kernel"])
def test_the_sensitivity_of_a_recurrent_kernel_is_that_of_small_changes_of_each_step(name: str) -> None:
    """Step by step, a change of what the kernel's product is moves the outputs as the slopes say, through time."""
    model = sequence_model(layers.LSTM(3, name="r"))
    kernel, recurrent, bias = model.get_layer("r").get_weights()
    found = sensitivity(model, [name], X, batch_size=4)[name]
    expected, size = np.zeros(12), 1e-5
    for t in range(5):
        for unit in range(12):
            ends = []
            for sign in (1, -1):
                h, c = np.zeros((2, len(X), 3))
                for step in range(5):
                    moved = bias + sign * size * np.eye(12)[unit] * (step == t)
                    h, c = lstm_step((kernel, recurrent, moved), X[:, step].astype(np.float64), h, c)
                ends.append(h)
            expected[unit] += np.mean(np.sum(((ends[0] - ends[1]) / (2 * size)) ** 2, axis=1))
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_the_sensitivity_of_an_attention_kernel_is_by_head_and_unit() -> None:
    """Of a kernel whose product is read linearly it is the squares of what reads it."""
    sequence = keras.Input((5, 3))
    split = layers.EinsumDense("abc,cde->abde", (None, 2, 4), name="split")(sequence)
    joined = layers.EinsumDense("abde,def->abf", (None, 6), name="join")(split)
    model = with_random_weights(keras.Model(sequence, joined))
    found = sensitivity(model, ["split"], X[:2])["split"]
    after = kernel_named(Graph(model), "join").matrix()
    np.testing.assert_allclose(found, 5 * np.sum(after**2, axis=1), rtol=1e-5)


def test_a_batch_of_nothing_but_masked_steps_is_no_trouble() -> None:
    model = sequence_model(layers.Masking(), layers.LSTM(2, name="r"))
    wired = Graph(model)
    x = np.concatenate([np.zeros((4, 5, 3), np.float32), X])
    kernel = kernel_named(wired, "r/kernel")
    counts = [int(counted.sum()) for _, counted in entering(wired, kernel, x, batch_size=4)]
    assert counts[0] == 0 and sum(counts) == COUNTED.sum()


def every_kind() -> Any:
    keras.utils.set_random_seed(3)
    sequence = keras.Input((5, 3))
    x = layers.Bidirectional(layers.GRU(4, return_sequences=True), name="both")(sequence)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 3, name="attention")(x, x)])
    x = layers.TimeDistributed(layers.Dense(6, activation="relu"), name="each")(x)
    return keras.Model(sequence, layers.Dense(2, name="out")(layers.LSTM(3, name="lstm")(x)))


def recurrent_model() -> Any:
    keras.utils.set_random_seed(4)
    both = layers.Bidirectional(layers.SimpleRNN(4, unroll=True), name="both")
    return keras.Sequential([keras.Input((5, 3)), both, layers.Dense(2, name="out")])


ATTENTION = [f"attention/{part}/kernel" for part in ("query", "key", "value", "output")]
BOTH = [f"both/{side}/{part}" for side in ("forward", "backward") for part in ("kernel", "recurrent_kernel")]
KERNELS = [*BOTH, *ATTENTION, "each", "lstm/kernel", "lstm/recurrent_kernel", "out"]


def pruned(method: str, subject: Any, **more: Any) -> PrunedModel:
    options = importance.load(method).Options()
    x = np.random.default_rng(1).normal(size=(40, 5, 3)).astype(np.float32)
    more = {"sparsity": 0.5, "allocation": "uniform", **more}
    return prune_model(subject, method, more.pop("sparsity"), options, x, **more)


@pytest.mark.parametrize("method", ["magnitude", "hessian"])
def test_every_kernel_is_pruned_each_with_a_decision_of_its_own(method: str) -> None:
    subject = every_kind()
    found = pruned(method, subject)
    assert list(found.masks) == KERNELS
    told = [decision for decision in found.decisions if decision.action == "pruned"]
    assert [decision.layer for decision in told] == KERNELS
    wired, before = Graph(found.model), Graph(subject)
    for decision in told:
        kernel, mask = kernel_named(wired, decision.layer), found.masks[decision.layer]
        weights = np.asarray(kernel.variable)
        assert mask.shape == weights.shape and not weights[~mask].any()
        assert decision.weights_before == mask.size
        assert decision.weights_after == np.count_nonzero(weights) == pytest.approx(mask.size / 2, abs=1)
        assert decision.kind == before.nodes[decision.layer.split("/")[0]].kind


def test_the_same_inputs_give_the_same_bits() -> None:
    found, again = (pruned("hessian", recurrent_model(), allocation="global") for _ in range(2))
    for mine, theirs in zip(found.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_recurrent_layer_that_loses_copies_of_its_inputs_answers_as_before(kind: str) -> None:
    subject = sequence_model(getattr(layers, kind)(4, name="r"))
    x = np.random.default_rng(2).normal(size=(60, 5, 3)).astype(np.float32)
    x[:, :, 2] = x[:, :, 0] - x[:, :, 1]
    rules = [Rule(layers="r/recurrent_kernel", skip=True)]
    options = importance.load("hessian").Options(damping=1e-6)
    found = prune_model(subject, "hessian", 1 / 3, options, x, allocation="row", rules=rules)
    assert not found.masks["r/kernel"].all(axis=0).any()
    assert np.asarray(found.model(x)) == pytest.approx(np.asarray(subject(x)), abs=1e-3)
    by_size = prune_model(
        subject,
        "magnitude",
        1 / 3,
        importance.load("magnitude").Options(),
        None,
        allocation="row",
        rules=rules,
    )
    assert np.abs(np.asarray(by_size.model(x)) - np.asarray(subject(x))).max() > 0.05


def test_in_recurrent_layers_the_weights_that_stay_make_up_for_those_that_go() -> None:
    subject = sequence_model(layers.LSTM(8, return_sequences=True), layers.GRU(8), layers.Dense(3))
    x = np.random.default_rng(2).normal(size=(200, 5, 3)).astype(np.float32)
    wanted = np.asarray(subject(x[100:]))
    errors = {}
    for method in ("hessian", "magnitude"):
        options = importance.load(method).Options()
        found = prune_model(subject, method, 0.5, options, x[:100], allocation="uniform")
        errors[method] = float(np.mean((np.asarray(found.model(x[100:])) - wanted) ** 2))
    assert errors["hessian"] < errors["magnitude"] / 2, errors


def test_rules_are_for_a_layer_or_for_one_of_its_kernels() -> None:
    rules = [
        Rule(layers="attention", skip=True),
        Rule(layers="*/recurrent_kernel", sparsity=0.25),
        Rule(layers="both", sparsity=0.75),
    ]
    found = pruned("magnitude", every_kind(), rules=rules)
    gone = {name: 1 - np.count_nonzero(mask) / mask.size for name, mask in found.masks.items()}
    assert not set(gone) & set(ATTENTION)
    assert {name: share for name, share in gone.items() if name in BOTH} == {
        name: 0.25 if name.endswith("recurrent_kernel") else 0.75 for name in BOTH
    }
    assert gone["lstm/recurrent_kernel"] == 0.25 and gone["lstm/kernel"] == 0.5
    with pytest.raises(
        ValueError, match=r"no layer is called 'lstm/bias'; .* lstm/kernel, lstm/recurrent_kernel"
    ):
        pruned("magnitude", every_kind(), rules=[Rule(layers="lstm/bias", skip=True)])


@pytest.mark.parametrize("gradual", [False, True])
def test_weights_removed_from_recurrent_kernels_stay_removed_while_the_rest_learns(gradual: bool) -> None:
    found = pruned("magnitude", recurrent_model())
    assert list(found.masks) == [*BOTH, "out"]
    before = {name: np.asarray(kernel_named(Graph(found.model), name).variable) for name in found.masks}
    y = np.random.default_rng(2).normal(size=(7, 2)).astype(np.float32)
    fine_tune(found.model, found.masks, X, y, "mse", 4, 4, 0.01, seed=0, gradual=gradual)
    for name, mask in found.masks.items():
        weights = np.asarray(kernel_named(Graph(found.model), name).variable)
        assert np.count_nonzero(weights == 0) == np.count_nonzero(~mask)
        assert gradual or not weights[~mask].any()
        assert np.abs(weights - before[name])[mask].max() > 0


def test_multiply_accumulates_count_each_kernel_as_often_as_it_is_applied() -> None:
    subject = every_kind()
    wired = Graph(subject)
    sizes = {name: kernel_named(wired, name).matrix().size for name in KERNELS}
    spent = {name: size if name == "out" else 5 * size for name, size in sizes.items()}
    assert sum(multiply_accumulates(node) for node in wired.nodes.values()) == sum(spent.values())
    found = pruned("magnitude", subject, sparsity=None, budget=Budget(macs=2000))
    left = sum(spent[name] * np.count_nonzero(mask) / mask.size for name, mask in found.masks.items())
    assert 1980 < left <= 2000
    einsum = sequence_model(layers.EinsumDense("abc,cde->abde", (None, 2, 4), name="split"))
    assert multiply_accumulates(Graph(einsum).nodes["split"]) == 5 * 3 * 2 * 4

"""The head's refit: closed forms, derivatives by small changes, and models whose head it finds."""

from __future__ import annotations

import itertools
import tracemalloc
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from pipeline.pruning import distance as distances
from pipeline.pruning import head, importance
from pipeline.pruning.head import Head
from pipeline.pruning.head_refit import refit_head
from pipeline.pruning.prune import prune_model

Array = np.ndarray


def random_head(
    kind: Any, temperature: float = 1.0, activation: str = "tanh", n: int = 40
) -> tuple[Head, list[Array]]:
    random = np.random.default_rng(0)
    widths = (6, 5, 4, 3)
    weights = [random.normal(size=(d + 1, r)) for d, r in itertools.pairwise(widths)]
    entering, target = random.normal(size=(n, 6)), random.normal(size=(n, 3))
    return Head(entering, target, [activation] * 2, kind, temperature), weights


def everywhere(weights: list[Array]) -> list[Array]:
    return [np.ones(weight.shape, bool) for weight in weights]


def test_one_layer_under_the_squared_distance_is_least_squares() -> None:
    random = np.random.default_rng(1)
    x, target = random.normal(size=(50, 4)).astype(np.float32), random.normal(size=(50, 3))
    mask = random.random((5, 3)) < 0.7
    found = head.refit(Head(x, target, [], "squared"), [np.zeros((5, 3))], [mask], steps=6, tolerance=0)
    rows = np.column_stack([x, np.ones(50)])
    for column, support in enumerate(mask.T):
        best, *_ = np.linalg.lstsq(rows[:, support], target[:, column], rcond=None)
        assert found.weights[0][support, column] == pytest.approx(best, abs=1e-4)
    assert not found.weights[0][~mask].any()


@pytest.mark.parametrize("kind", ["squared", "softmax", "sigmoid"])
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu", "linear"])
def test_the_gradient_is_that_of_the_distance(kind: Any, activation: str) -> None:
    given, weights = random_head(kind, 3.0, activation)
    step = head._Step(given, weights, everywhere(weights))
    direction = np.random.default_rng(2).normal(size=step.gradient.shape)
    parts = step._scattered(direction)
    ends = [given.distance([w + s * p for w, p in zip(weights, parts, strict=True)]) for s in (1e-5, -1e-5)]
    assert step.gradient @ direction == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-3)


def test_pushing_forward_and_pulling_back_are_each_others_transpose() -> None:
    given, weights = random_head("softmax", 2.0)
    step = head._Step(given, weights, everywhere(weights))
    random = np.random.default_rng(3)
    direction, pull = [random.normal(size=w.shape) for w in weights], random.normal(size=(40, 3))
    there = np.sum(step._forward(direction) * pull) / 40
    back = sum(np.sum(d * b) for d, b in zip(direction, step._backward(pull), strict=True))
    assert there == pytest.approx(back, rel=1e-6)
    small = 1e-6
    moved = [
        given.passed([w + s * d for w, d in zip(weights, direction, strict=True)])[1] for s in (small, -small)
    ]
    np.testing.assert_allclose(step._forward(direction), (moved[0] - moved[1]) / (2 * small), atol=1e-5)


def test_the_curvatures_are_the_diagonal_of_the_whole_matrix_where_inputs_are_ones() -> None:
    """With an input of ones, the bias alone, the diagonal of H is s itself."""
    given, weights = random_head("softmax", 2.0)
    step = head._Step(given, weights, everywhere(weights))
    root = distances.root("softmax", given.passed(weights)[1] / 2.0)
    assert root is not None
    root = root / 2.0
    for level, weight in enumerate(weights):
        for column in range(weight.shape[1]):
            direction = [np.zeros(each.shape) for each in weights]
            direction[level][-1, column] = 1
            pushed = step._forward(direction)
            curved = np.einsum("nok,no->nk", root, pushed)
            assert step.curvatures[level][column] == pytest.approx(
                np.mean(np.sum(curved**2, axis=1)), rel=1e-4
            )


@pytest.mark.parametrize("kind", ["squared", "softmax", "sigmoid"])
def test_many_outputs_take_no_matrix_of_theirs_for_each_sample(kind: Any) -> None:
    """128 KiB of outputs; the matrices would take 16 MiB."""
    random = np.random.default_rng(0)
    x, target = random.normal(size=(128, 2)), random.normal(size=(128, 128))
    given, weights = Head(x, target, [], kind), [random.normal(size=(3, 128))]
    step = head._Step(given, weights, everywhere(weights))
    root = distances.root(kind, given.passed(weights)[1])
    expected = np.ones(128) if root is None else np.mean(np.sum(root**2, axis=2), axis=0)
    np.testing.assert_allclose(step.curvatures[0], expected, rtol=0.2)
    tracemalloc.start()
    head._Step(given, weights, everywhere(weights)).step(1e-3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 << 20


def inputs(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def classifier(ending: str) -> Any:
    keras.utils.set_random_seed(4)
    closing = {
        "activation": [layers.Dense(3, activation="softmax", name="out")],
        "layer": [layers.Dense(3, name="out"), layers.Softmax()],
        "activation layer": [layers.Dense(3, name="out"), layers.Activation("sigmoid")],
        "linear": [layers.Dense(3, use_bias=False, name="out")],
    }[ending]
    return keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            layers.Conv2D(6, 3, activation="relu", name="conv"),
            layers.Flatten(),
            layers.Dense(24, activation="tanh", name="first"),
            layers.Dropout(0.5),
            layers.Dense(16, activation="relu", name="second"),
            *closing,
        ]
    )


@pytest.mark.parametrize("ending", ["activation", "layer", "activation layer", "linear"])
@pytest.mark.parametrize("method", ["neuron", "magnitude"])
def test_a_model_comes_closer_and_what_was_removed_stays_away(ending: str, method: str) -> None:
    dense, x, fresh = classifier(ending), inputs(600, 4, 4, 2), inputs(200, 4, 4, 2, seed=7)
    options = {"multiple": 1, "calibration_samples": 0} if method == "neuron" else {}
    found = prune_model(dense, method, 0.5, importance.load(method).Options(**options), None)

    def away() -> float:
        return float(np.mean((np.asarray(found.model(fresh)) - np.asarray(dense(fresh))) ** 2))

    before, conv = away(), found.model.get_layer("conv").get_weights()
    distances = refit_head(dense, found.model, found.masks, x, 8, temperature=2.0)
    assert distances[-1] < distances[0] / 2 and away() < before
    assert distances == sorted(distances, reverse=True)
    for mine, theirs in zip(conv, found.model.get_layer("conv").get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for name in {"first", "second", "out"} & set(found.masks):
        assert not np.asarray(found.model.get_layer(name).kernel)[~found.masks[name]].any()


def test_it_is_the_same_twice_and_nothing_where_nothing_was_lost() -> None:
    dense, x = classifier("activation"), inputs(100, 4, 4, 2)
    assert refit_head(dense, keras.models.clone_model(dense), {}, x, 3) == []
    options = importance.load("neuron").Options(multiple=1, calibration_samples=0)
    once, again = (prune_model(dense, "neuron", 0.5, options, None).model for _ in range(2))
    assert refit_head(dense, once, {}, x, 3) == refit_head(dense, again, {}, x, 3)
    for mine, theirs in zip(once.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_layers_before_the_first_that_lost_something_are_not_moved() -> None:
    dense, x = classifier("activation"), inputs(100, 4, 4, 2)
    twin = keras.models.clone_model(dense)
    twin.set_weights(dense.get_weights())
    mask = np.ones((16, 3), bool)
    mask[:8] = False
    out = twin.get_layer("out")
    out.kernel.assign(np.asarray(out.kernel) * mask)
    assert len(refit_head(dense, twin, {"out": mask}, x, 3)) > 1
    for name in ("first", "second"):
        np.testing.assert_array_equal(twin.get_layer(name).kernel, dense.get_layer(name).kernel)


def test_a_model_that_has_no_head_is_refused() -> None:
    entering = keras.Input((4, 4, 2))
    pooled = layers.GlobalAveragePooling2D()(layers.Conv2D(3, 3)(entering))
    two = keras.Model(entering, [pooled, pooled])
    for model, words in (
        (keras.Model(entering, pooled), "ends with a Dense layer"),
        (two, "received one of 2"),
        (keras.Sequential([keras.Input((3,)), layers.Dense(2, activation="gelu")]), "linear or with softmax"),
    ):
        with pytest.raises(ValueError, match=words):
            refit_head(model, model, {}, inputs(4, 4, 4, 2), 1)

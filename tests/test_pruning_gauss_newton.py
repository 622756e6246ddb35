"""Gauss-Newton on models whose answer is known: linear ones, and tiny ones against dense matrices."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.pruning import distance as distances
from pipeline.pruning import gauss_newton, linearised
from pipeline.pruning.distance import Distance
from pipeline.pruning.linearised import Linearised

Array = np.ndarray


class TwoLayers:
    """f = tanh(x W1) W2, of which x (n, positions, d) has its positions summed; `linear` leaves the tanh out."""

    def __init__(self, seed: int = 0, n: int = 60, positions: int = 1, *, linear: bool = False) -> None:
        random = np.random.default_rng(seed)
        self.linear, self.kind, self.batch = linear, "squared", n
        self.x = random.normal(size=(n, positions, 5)) @ random.normal(size=(5, 5))
        self.dense = [random.normal(size=(5, 4)) / 2, random.normal(size=(4, 3))]
        self.target = self.outputs(self.dense)

    kind: Distance

    def outputs(self, weights: list[Array]) -> Array:
        return np.asarray((self.bent(self.x @ weights[0]) @ weights[1]).sum(axis=1))

    def bent(self, a: Array) -> Array:
        return a if self.linear else np.tanh(a)

    def distance(self, weights: list[Array]) -> float:
        return distances.value(self.kind, self.outputs(weights), self.target)

    def linearise(self, weights: list[Array]) -> Iterator[Linearised]:
        for start in range(0, len(self.x), self.batch):
            part = slice(start, start + self.batch)
            x = self.x[part]
            hidden = self.bent(x @ weights[0])
            slope = np.ones(hidden.shape) if self.linear else 1 - hidden**2
            first = weights[1].T[None, :, None] * slope[:, None]
            last = np.broadcast_to(np.eye(3)[None, :, None], (len(x), 3, x.shape[1], 3))
            f = self.outputs(weights)[part]
            pull = distances.gradient(self.kind, f, self.target[part])
            yield linearised.linearised([x, hidden], [first, last], pull, distances.root(self.kind, f))

    def product(self, weights: list[Array], direction: list[Array]) -> list[Array]:
        free = [np.ones(w.shape, bool) for w in weights]
        hessian, _ = linearised.normal_equations(self.linearise(weights), free)
        return linearised.scatter(hessian @ linearised.gather(direction, free), free)


def ones(weights: list[Array]) -> list[Array]:
    return [np.ones(w.shape, bool) for w in weights]


def some(seed: int, weights: list[Array], share: float = 0.6) -> list[Array]:
    random = np.random.default_rng(seed)
    return [random.random(w.shape) < share for w in weights]


def full_jacobian(network: TwoLayers, weights: list[Array], masks: list[Array]) -> Array:
    """By central differences of the outputs, (n, 3, p)."""
    start = linearised.gather(weights, masks)
    sides = [
        [network.outputs(linearised.scatter(start + sign * 1e-6 * e, masks)) for sign in (1, -1)]
        for e in np.eye(len(start))
    ]
    return np.stack([(up - down) / 2e-6 for up, down in sides], axis=2)


@pytest.mark.parametrize("kind", ["squared", "softmax", "sigmoid"])
@pytest.mark.parametrize("positions", [1, 3])
def test_the_normal_equations_are_those_of_the_jacobian(kind: Distance, positions: int) -> None:
    network = TwoLayers(positions=positions)
    network.kind = kind
    masks = some(1, network.dense)
    weights = [np.where(mask, w, 0) for w, mask in zip(network.dense, masks, strict=True)]
    hessian, gradient = linearised.normal_equations(network.linearise(weights), masks)
    jacobian, f = full_jacobian(network, weights, masks), network.outputs(weights)
    root = distances.root(kind, f)
    turned = jacobian if root is None else np.einsum("nok,nop->nkp", root, jacobian)
    rows = turned.reshape(-1, jacobian.shape[2])
    np.testing.assert_allclose(hessian, rows.T @ rows / 60, rtol=1e-3, atol=1e-5)
    pull = distances.gradient(kind, f, network.target)
    np.testing.assert_allclose(gradient, np.einsum("no,nop->p", pull, jacobian) / 60, rtol=1e-5, atol=1e-7)
    for most in (None, 2):
        every = list(linearised.units(masks, most))
        blocks, again = linearised.block_equations(network.linearise(weights), masks, every)
        np.testing.assert_allclose(again, gradient)
        for unit, block in zip(every, blocks, strict=True):
            np.testing.assert_allclose(block, hessian[unit.place, unit.place], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("positions", [1, 3])
def test_streamed_is_one_batch(positions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network = TwoLayers(positions=positions)
    masks = ones(network.dense)
    whole = linearised.normal_equations(network.linearise(network.dense), masks)
    network.batch = 7
    monkeypatch.setattr(linearised, "_JACOBIAN_ELEMENTS", 400)
    for parts, one in zip(
        linearised.normal_equations(network.linearise(network.dense), masks), whole, strict=True
    ):
        np.testing.assert_allclose(parts, one, rtol=1e-5, atol=1e-6)


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_scatter_is_the_inverse_of_gather(seed: int) -> None:
    random = np.random.default_rng(seed)
    masks = [random.random((3, 4)) < 0.5, random.random((4, 2)) < 0.5]
    vector = random.normal(size=sum(int(mask.sum()) for mask in masks))
    matrices = linearised.scatter(vector, masks)
    np.testing.assert_array_equal(linearised.gather(matrices, masks), vector)
    assert all(not matrix[~mask].any() for matrix, mask in zip(matrices, masks, strict=True))
    for most in (None, 1, 2):
        every = list(linearised.units(masks, most))
        assert all(0 < len(unit.rows) <= (most or 4) for unit in every)
        assert sum(len(unit.rows) for unit in every) == len(vector)
        for unit in every:
            expected = matrices[unit.layer][unit.rows, unit.column]
            np.testing.assert_array_equal(vector[unit.place], expected)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "squared"])
def test_a_distance_is_zero_at_its_target_and_curved_as_its_root_says(kind: Distance) -> None:
    random = np.random.default_rng(0)
    target = 2 * random.normal(size=(1, 4))
    assert distances.value(kind, target, target) == pytest.approx(0, abs=1e-12)
    assert not distances.gradient(kind, target, target).any()
    root = distances.root(kind, target)
    curvature = np.eye(4) if root is None else root[0] @ root[0].T
    f = random.normal(size=(1, 4))
    turned = distances.curved(kind, target, f)
    np.testing.assert_allclose(turned[0], curvature @ f[0], rtol=1e-6, atol=1e-9)
    for step in 1e-5 * np.eye(4):
        slope = (distances.value(kind, f + step, target) - distances.value(kind, f - step, target)) / 2e-5
        assert slope == pytest.approx(distances.gradient(kind, f, target)[0] @ step / 1e-5, abs=1e-7)
        bend = (distances.gradient(kind, target + step, target)[0]) / 1e-5
        np.testing.assert_allclose(bend, curvature @ step / 1e-5, atol=1e-4)


def one_layer_free(network: TwoLayers, seed: int) -> list[Array]:
    """Masks under which the outputs are linear in the free weights: those of the last layer."""
    return [np.zeros((5, 4), bool), some(seed, [network.dense[1]])[0]]


@pytest.mark.parametrize("direct", [1000, 0])
def test_on_a_linear_model_one_step_is_least_squares(direct: int) -> None:
    network = TwoLayers()
    free = one_layer_free(network, 3)
    hidden = np.tanh(network.x @ network.dense[0])[:, 0]
    support = free[1]

    class LastLayer(TwoLayers):
        def outputs(self, weights: list[Array]) -> Array:
            return hidden @ weights[0]

        def linearise(self, weights: list[Array]) -> Iterator[Linearised]:
            last = np.broadcast_to(np.eye(3)[None, :, None], (60, 3, 1, 3))
            yield linearised.linearised([hidden[:, None]], [last], self.outputs(weights) - self.target, None)

    last_layer = LastLayer.__new__(LastLayer)
    last_layer.kind, last_layer.target = "squared", network.target
    found = gauss_newton.refit(last_layer, network.dense[1:], [support], steps=1, damping=1e-6, direct=direct)
    expected = np.zeros((4, 3))
    for j in range(3):
        rows = support[:, j]
        expected[rows, j] = np.linalg.lstsq(hidden[:, rows], network.target[:, j], rcond=None)[0]
    np.testing.assert_allclose(found.weights[0], expected, atol=2e-3)
    assert len(found.distances) == 2 and found.distances[1] < found.distances[0]


@pytest.mark.parametrize("kind", ["squared", "softmax"])
def test_each_step_taken_lowers_the_distance_and_zeros_stay_zero(kind: Distance) -> None:
    network = TwoLayers(1)
    network.kind = kind
    masks = some(2, network.dense, 0.7)
    found = gauss_newton.refit(network, network.dense, masks, steps=8)
    assert len(found.distances) > 2 and (np.diff(found.distances) < 0).all()
    assert found.distances[-1] < found.distances[0] / 3
    assert found.distances[-1] == pytest.approx(network.distance(found.weights))
    assert all(not w[~mask].any() for w, mask in zip(found.weights, masks, strict=True))


@pytest.mark.parametrize("blocks", [1 << 26, 40])
def test_gradients_and_cholesky_find_the_same_weights(blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauss_newton, "_BLOCK_ELEMENTS", blocks)
    network = TwoLayers(1)
    masks = some(2, network.dense, 0.7)
    one, other = (
        gauss_newton.refit(network, network.dense, masks, steps=1, direct=direct) for direct in (1000, 0)
    )
    for a, b in zip(one.weights, other.weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-2)
    assert one.distances == pytest.approx(other.distances, rel=0.05)


def test_no_more_than_a_batch_of_linearised_samples_is_in_memory() -> None:
    alive: list[int] = []

    class Watched(TwoLayers):
        def linearise(self, weights: list[Array]) -> Iterator[Linearised]:
            made: list[weakref.ref[Linearised]] = []
            for batch in super().linearise(weights):
                made.append(weakref.ref(batch))
                yield batch
                alive.append(sum(each() is not None for each in made))

    network = Watched(1)
    network.batch = 5
    gauss_newton.refit(network, network.dense, some(2, network.dense, 0.7), steps=1, direct=0)
    assert len(alive) > 12 and max(alive) <= 2


def test_what_is_already_right_stays_as_it_is() -> None:
    network = TwoLayers()
    found = gauss_newton.refit(network, network.dense, ones(network.dense))
    assert found.distances == [0.0]
    for w, dense in zip(found.weights, network.dense, strict=True):
        np.testing.assert_array_equal(w, dense)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 12))
def test_conjugate_gradients_solve(seed: int, size: int) -> None:
    random = np.random.default_rng(seed)
    root = random.normal(size=(size, size))
    matrix, right = root @ root.T + np.eye(size), random.normal(size=size)
    found = gauss_newton.conjugate_gradients(
        lambda v: matrix @ v, right, lambda v: v / np.diag(matrix), tolerance=1e-9
    )
    np.testing.assert_allclose(found, np.linalg.solve(matrix, right), atol=1e-6)


def test_what_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        gauss_newton.factorised(np.full((2, 2), np.nan), 1.0)
    factor, damping = gauss_newton.factorised(np.array([[1.0, 2.0], [2.0, 1.0]]), 0.5)
    assert damping == 5.0 and np.isfinite(factor).all()

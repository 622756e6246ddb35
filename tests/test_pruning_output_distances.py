"""The summed distance of several outputs, against those of its parts, and in a network of several ports."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from pipeline.models.samples import NamedArrays
from pipeline.pruning import distance, linearised
from pipeline.pruning.keras_network import KerasNetwork
from pipeline.pruning.output_distances import OutputDistances
from pipeline.pruning.output_refit import refit_outputs

MIXED = OutputDistances(("softmax", "squared", "sigmoid"), (3, 2, 1))


def test_value_and_gradient_are_those_of_the_parts() -> None:
    random = np.random.default_rng(0)
    f, target = random.normal(size=(2, 4, 6))
    parts = (("softmax", slice(0, 3)), ("squared", slice(3, 5)), ("sigmoid", slice(5, 6)))
    assert MIXED.value(f, target) == pytest.approx(
        sum(distance.value(kind, f[:, part], target[:, part]) for kind, part in parts)  # type: ignore[arg-type]
    )
    slope = MIXED.gradient(f, target)
    for column in range(6):
        step = 1e-5 * np.eye(6)[column]
        difference = MIXED.value(f + step, target) - MIXED.value(f - step, target)
        assert difference / 2e-5 == pytest.approx(slope[:, column].mean(), abs=1e-8)


def test_the_root_is_that_of_the_curvature_output_by_output() -> None:
    f = np.random.default_rng(1).normal(size=(1, 6))
    root = MIXED.root(f)
    assert root is not None
    curvature = (root @ root.swapaxes(1, 2))[0]
    for column in range(6):
        step = 1e-5 * np.eye(6)[column]
        bend = (MIXED.gradient(f + step, f) - MIXED.gradient(f - step, f))[0] / 2e-5
        np.testing.assert_allclose(bend, curvature[column], atol=1e-8)
    assert OutputDistances(("squared", "squared"), (2, 4)).root(f) is None


def branching_model() -> Any:
    keras.utils.set_random_seed(1)
    words, extra = keras.Input((6,), dtype="int32", name="words"), keras.Input((3,), name="extra")
    x = layers.GlobalAveragePooling1D()(layers.Embedding(9, 4)(words))
    x = layers.Dense(8, activation="tanh", name="first")(layers.Concatenate()([x, extra]))
    gate = layers.Dense(2, activation="sigmoid", name="gate")(x)
    amount = layers.Dense(2, name="amount")(layers.Concatenate()([x, gate]))
    kind = layers.Dense(3, activation="softmax", name="kind")(x)
    return keras.Model([words, extra], {"kind": kind, "amount": amount, "gate": gate})


def samples(n: int) -> NamedArrays:
    random = np.random.default_rng(2)
    extra = random.normal(size=(n, 3)).astype(np.float32)
    return NamedArrays({"extra": extra, "words": random.integers(0, 9, (n, 6))})


def test_a_network_of_several_ports_has_the_slopes_of_finite_differences() -> None:
    network = KerasNetwork(branching_model(), ["first", "kind", "gate"], samples(5))
    # What the gate puts out is read within the model too, so its sigmoid stays.
    assert network.measured == OutputDistances(("squared", "squared", "softmax"), (2, 2, 3))
    random = np.random.default_rng(3)
    weights = [w + 0.2 * random.normal(size=w.shape).astype(np.float32) for w in network.matrices()]
    masks = [np.ones(matrix.shape, bool) for matrix in weights]
    (batch,) = network.linearise(weights)
    gradient = linearised.gradient(batch, masks) / len(batch)
    for _ in range(3):
        direction = random.normal(size=len(gradient))
        sides = [
            network.distance(linearised.scatter(linearised.gather(weights, masks) + step * direction, masks))
            for step in (1e-2, -1e-2)
        ]
        assert (sides[0] - sides[1]) / 2e-2 == pytest.approx(gradient @ direction, rel=3e-2, abs=3e-4)


def test_a_refit_brings_every_output_closer() -> None:
    dense, pruned = branching_model(), branching_model()
    random = np.random.default_rng(4)
    mask = random.random((7, 8)) > 0.5
    kernel = pruned.get_layer("first").kernel
    kernel.assign(np.where(mask, kernel, 0))
    x = samples(200)
    given = [x.arrays["words"], x.arrays["extra"]]

    def differences() -> dict[str, float]:
        now, then = pruned(given), dense(given)
        return {name: float(np.abs(np.asarray(now[name] - then[name])).mean()) for name in then}

    before = differences()
    distances = refit_outputs(dense, pruned, {"first": mask}, x, steps=6)
    assert distances[-1] < distances[0] / 2
    assert all(after < before[name] for name, after in differences().items())
    assert not np.asarray(kernel)[~mask].any()

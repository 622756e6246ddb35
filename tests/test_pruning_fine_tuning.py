"""Gradual pruning and distillation: the schedule's closed form, nested masks, and what is learnt in the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from pipeline import engine
from pipeline.artifacts import Store
from pipeline.errors import UserError
from pipeline.models import graph
from pipeline.plan import plan_model
from pipeline.progress import Progress
from pipeline.pruning.distillation import Distillation, distance
from pipeline.pruning.recovery import fine_tune
from pipeline.pruning.schedule import Gradual, gradual_mask, gradual_sparsity
from pipeline.strict_yaml import read_values
from tests.workspace import ROOT

RANDOM = np.random.default_rng(2)
X = RANDOM.normal(size=(48, 6)).astype(np.float32)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 1000))
def test_the_schedule_is_the_cubic_one(initial: float, final: float, end: int) -> None:
    s = [gradual_sparsity(t, 2 * end, final, initial) for t in (0, end, 2 * end, 3 * end)]
    assert s[0] == pytest.approx(initial)
    assert s[1] == pytest.approx(final + (initial - final) / 8)
    assert s[2] == s[3] == final


@given(st.integers(0, 2**32 - 1), st.integers(0, 20), st.integers(0, 20))
def test_masks_are_nested_and_lack_the_smallest(seed: int, first: int, second: int) -> None:
    random = np.random.default_rng(seed)
    before, after = random.integers(-3, 4, (2, 4, 5)).astype(np.float32)
    one = gradual_mask(before, np.ones((4, 5), bool), first)
    two = gradual_mask(after, one, second)
    assert (~one).sum() == first and (~two).sum() == max(first, second)
    assert not (two & ~one).any()
    went = np.abs(after[one & ~two])
    assert went.size == 0 or went.max() <= np.abs(after[two]).min(initial=np.inf)


def test_a_course_ends_with_exactly_what_is_to_go() -> None:
    course = Gradual(1000, {"a": 777})
    made = [step for step in range(1, 1001) if course.removes_after(step)]
    assert made[-1] == course.end == 750 and len(made) == 50
    assert [course.count("a", step) for step in (0, 375, 750, 1000)] == [0, round(777 * 7 / 8), 777, 777]
    short = Gradual(2, {"a": 5})
    assert [step for step in (1, 2) if short.removes_after(step)] == [1, 2] and short.count("a", 2) == 5


def task(outputs: int = 2, activation: str | None = None) -> tuple[Any, dict[str, np.ndarray]]:
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="relu", name="a"),
            layers.Dense(outputs, activation=activation, name="b"),
        ]
    )
    random = np.random.default_rng(0)
    return model, {"a": random.random((6, 8)) < 0.3, "b": random.random((8, outputs)) < 0.5}


def test_gradual_masks_grow_and_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    model, masks = task()
    y = RANDOM.normal(size=(48, 2)).astype(np.float32)
    zeros: list[dict[str, np.ndarray]] = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            zeros.append({name: self.model.get_layer(name).get_weights()[0] == 0 for name in masks})

    fit = keras.Sequential.fit

    def watched(self: Any, *args: Any, callbacks: list[Any], **more: Any) -> Any:
        return fit(self, *args, callbacks=[*callbacks, Watch()], **more)

    monkeypatch.setattr(keras.Sequential, "fit", watched)
    fine_tune(model, masks, X, y, "mse", 4, 16, 0.01, seed=3, gradual=True)
    course = Gradual(12, {name: int((~mask).sum()) for name, mask in masks.items()})
    assert course.end == 9
    for step, (before, after) in enumerate(zip([zeros[0], *zeros], zeros, strict=False), start=1):
        for name in masks:
            assert after[name].sum() == course.count(name, step)
            assert (after[name] >= before[name]).all()
    for name, mask in masks.items():
        assert np.array_equal(zeros[8][name], zeros[11][name]) and zeros[11][name].sum() == (~mask).sum()
        assert np.array_equal(model.get_layer(name).get_weights()[0] == 0, zeros[11][name])


@pytest.mark.parametrize("loss", ["mse", "categorical_crossentropy"])
def test_the_same_seed_gives_the_same_bits(loss: str) -> None:
    model, masks = task(activation=None if loss == "mse" else "softmax")
    y = np.eye(2, dtype=np.float32)[RANDOM.integers(0, 2, 48)]
    learnt = Distillation(np.asarray(model(X)), ["softmax" if loss != "mse" else "linear"], 0.5, 2.0)
    subjects = [graph.copy(model) for _ in range(2)]
    for subject in subjects:
        fine_tune(subject, masks, X, y, loss, 2, 16, 0.01, seed=3, gradual=True, distillation=learnt)
    for one, other in zip(*(subject.get_weights() for subject in subjects), strict=True):
        np.testing.assert_array_equal(one, other)


def test_distillation_alone_finds_what_the_dense_model_says() -> None:
    """Labels are nonsense and count for nothing; what stays of a linear model comes to its least squares."""
    kernel = RANDOM.normal(size=(6, 3)).astype(np.float32)
    dense_outputs = X @ kernel
    mask = np.ones((6, 3), bool)
    mask[[0, 2, 5], [0, 1, 1]] = False
    model = keras.Sequential([keras.Input((6,)), layers.Dense(3, use_bias=False, name="d")])
    # Many steps an epoch, of the same samples: an epoch's own cost is far above that of its steps.
    x, answers = np.tile(X, (200, 1)), np.tile(dense_outputs, (200, 1))
    learnt = Distillation(answers, ["linear"], 1.0, 2.0)
    for rate in (0.05, 0.002):
        fine_tune(
            model, {"d": mask}, x, np.full_like(answers, 1e3), "mse", 2, 48, rate, seed=0, distillation=learnt
        )
    found = model.get_layer("d").get_weights()[0]
    for unit in range(3):
        rows = mask[:, unit]
        best = np.linalg.lstsq(X[:, rows], dense_outputs[:, unit], rcond=None)[0]
        np.testing.assert_allclose(found[rows, unit], best, atol=3e-2)
        assert not found[~rows, unit].any()
    np.testing.assert_allclose((X @ found)[:, 2], dense_outputs[:, 2], atol=3e-2)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_the_distance_is_that_of_the_softened_logits(temperature: float) -> None:
    a, b = RANDOM.normal(size=(2, 5, 4)).astype(np.float32)

    def softmax(z: np.ndarray) -> np.ndarray:
        e = np.exp(z)
        return np.asarray(e / e.sum(axis=-1, keepdims=True))

    def divergence(z: np.ndarray, v: np.ndarray) -> np.ndarray:
        p, q = softmax(z / temperature), softmax(v / temperature)
        return np.asarray(temperature**2 * (p * np.log(p / q)).sum(axis=-1))

    apart = distance("softmax", temperature)
    np.testing.assert_allclose(apart(softmax(a), softmax(b)), divergence(a, b), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(apart(softmax(a), softmax(a)), 0, atol=1e-5)
    sigmoid = distance("sigmoid", temperature)(1 / (1 + np.exp(-a)), 1 / (1 + np.exp(-b)))
    both = [np.stack([z, np.zeros_like(z)], axis=-1) for z in (a, b)]
    np.testing.assert_allclose(sigmoid, divergence(*both).mean(axis=-1), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(distance("linear", temperature)(a, b), ((a - b) ** 2).mean(axis=-1), rtol=1e-5)


def prune(store: Store, *settings: str) -> dict[str, Any]:
    values = {
        "name": "p",
        "model": {"source": "examples/iris_mlp.py:build"},
        "data": {"source": "sklearn:iris"},
        "train": {"epochs": 20, "learning_rate": 0.01},
        "prune": {
            "fine_tune": {
                "epochs": 40,
                "batch_size": 16,
                "learning_rate": 0.005,
                "schedule": "gradual",
                "distill": 0.5,
            }
        },
    }
    plan = read_values(values, plan_model(), overrides=settings, folder=ROOT, name="test")
    report = engine.run_host_stages(plan, ROOT, store, Progress(quiet=True), last="prune").report("prune")
    return dict(report)


def test_a_plan_prunes_gradually_with_distillation(tmp_path: Path) -> None:
    report = prune(Store(tmp_path), "prune.method=magnitude", "prune.sparsity=0.9")
    assert report["metric_after"] > max(report["metric_pruned"], 0.85)
    told = [each for each in report["decisions"] if each["action"] == "pruned"]
    assert told and all(
        each["reason"].startswith("While it was trained its smallest weights went bit by bit, ")
        and each["loss_increase"] is None
        for each in told
    )


def test_gradual_pruning_of_units_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"fine_tune\.schedule: gradual removes single weights, and neuron whole units"
    ):
        prune(Store(tmp_path), "prune.method=neuron", "prune.sparsity=0.5", "train.epochs=1")

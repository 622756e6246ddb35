from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from pipeline.models import graph
from pipeline.pruning.recovery import fine_tune


def task() -> tuple[Any, dict[str, np.ndarray], np.ndarray, np.ndarray]:
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="relu", kernel_constraint=keras.constraints.MaxNorm(0.7), name="a"),
            layers.BatchNormalization(name="norm"),
            layers.Dropout(0.3, name="drop"),
            layers.Dense(2, name="b"),
        ]
    )
    random = np.random.default_rng(0)
    x = random.normal(size=(48, 6)).astype(np.float32)
    y = x @ random.normal(size=(6, 2)).astype(np.float32)
    masks = {"a": random.random((6, 8)) < 0.4, "b": random.random((8, 2)) < 0.5}
    return model, masks, x, y


def test_masks_hold_after_every_step_and_the_rest_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    model, masks, x, y = task()
    before = {layer.name: layer.get_weights() for layer in model.layers}
    steps, losses = [], []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            steps.append(
                all(not self.model.get_layer(n).get_weights()[0][~mask].any() for n, mask in masks.items())
            )

    fit = keras.Sequential.fit

    def watched(self: Any, *args: Any, callbacks: list[Any], **more: Any) -> Any:
        return fit(self, *args, callbacks=[*callbacks, Watch()], **more)

    monkeypatch.setattr(keras.Sequential, "fit", watched)
    fine_tune(
        model,
        masks,
        x,
        y,
        "mse",
        4,
        16,
        0.01,
        seed=3,
        on_epoch=lambda epoch, loss: losses.append((epoch, loss)),
    )
    assert steps == [True] * 12
    assert [epoch for epoch, _ in losses] == [0, 1, 2, 3]
    assert losses[-1][1] < losses[0][1]
    for name, mask in masks.items():
        kernel, bias = model.get_layer(name).get_weights()
        assert not kernel[~mask].any()
        assert np.abs(kernel - before[name][0])[mask].min() > 0
        assert np.abs(bias - before[name][1]).min() > 0
    norm = zip(model.get_layer("norm").get_weights(), before["norm"], strict=True)
    assert all(np.abs(now - was).max() > 0 for now, was in norm)
    assert np.linalg.norm(model.get_layer("a").get_weights()[0], axis=0).max() <= 0.7 + 1e-5
    assert not model.compiled


def test_a_run_can_be_repeated() -> None:
    model, masks, x, y = task()
    again = graph.copy(model)
    for subject in (model, again):
        fine_tune(subject, masks, x, y, "mse", 2, 16, 0.01, seed=3)
    for mine, theirs in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    other = graph.copy(model)
    fine_tune(other, masks, x, y, "mse", 2, 16, 0.01, seed=4)
    assert any(
        not np.array_equal(m, t) for m, t in zip(model.get_weights(), other.get_weights(), strict=True)
    )


def test_divergence_is_an_error_and_leaves_the_model_as_it_was() -> None:
    model, masks, x, y = task()
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"diverged in epoch 1; give a learning rate below 0.01"):
        fine_tune(model, masks, x, np.full_like(y, np.inf), "mse", 2, 16, 0.01, seed=3)
    for mine, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_learning_rate_that_decays_is_zero_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    model, masks, x, y = task()
    rates = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            rates.append(float(self.model.optimizer.learning_rate))

    fit = keras.Sequential.fit

    def watched(self: Any, *args: Any, callbacks: list[Any], **more: Any) -> Any:
        return fit(self, *args, callbacks=[*callbacks, Watch()], **more)

    monkeypatch.setattr(keras.Sequential, "fit", watched)
    fine_tune(model, masks, x, y, "mse", 2, 16, 0.01, seed=3, decay=True)
    assert rates == pytest.approx([0.005 * (1 + np.cos(np.pi * step / 6)) for step in range(6)])

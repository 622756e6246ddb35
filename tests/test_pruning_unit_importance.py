"""The importances of units: closed forms, finite gates, brute force over every unit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from numpy.typing import NDArray
from scipy.stats import spearmanr

from pipeline import engine
from pipeline.artifacts import Store
from pipeline.models.graph import Graph
from pipeline.models.ports import output_names
from pipeline.models.sample_gradients import Objective, sample_gradients
from pipeline.models.samples import NamedArrays, Samples
from pipeline.plan import plan_model
from pipeline.progress import Progress
from pipeline.pruning import importance
from pipeline.pruning.importance import eigen
from pipeline.pruning.prune import prune_model
from pipeline.pruning.surgery.cut import Anatomy
from pipeline.pruning.unit_senses import CalibrationSenses
from pipeline.strict_yaml import read_values

ROOT = Path(__file__).parent.parent
Array = np.ndarray


def inputs(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def senses(model: Any, x: Array, objective: Objective | None = None) -> tuple[Anatomy, CalibrationSenses]:
    trained = Graph(model)
    anatomy = Anatomy(trained)
    return anatomy, CalibrationSenses(trained, anatomy, x, objective)


def scores(method: str, model: Any, x: Array, objective: Objective | None = None) -> dict[str, Array]:
    anatomy, known = senses(model, x, objective)
    chosen: Any = importance.load(method)
    return {group.name: chosen.scores(group, known, chosen.Options()) for group in anatomy.groups}


def linear(width: int = 5, outputs: int = 3) -> Any:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(width, use_bias=False, name="hidden"),
            layers.Dense(outputs, use_bias=False, name="out"),
        ]
    )


def test_taylor_of_a_linear_model_is_what_the_formula_says() -> None:
    model, x, y = linear(), inputs(20, 4), inputs(20, 3, seed=1)
    found = scores("taylor", model, x, Objective(y, keras.losses.get("mse")))["hidden"]
    first, second = model.get_weights()
    hidden = x @ first
    slopes = 2 / 3 * (hidden @ second - y)
    assert found == pytest.approx(np.sqrt(np.mean((hidden * (slopes @ second.T)) ** 2, axis=0)), rel=1e-4)


def residual() -> Any:
    """Units read by a convolution, after a Flatten, and by the layer that they are added to."""
    entering = keras.Input((5, 5, 2))
    one = layers.Conv2D(4, 3, padding="same", activation="tanh", name="one")(entering)
    two = layers.Conv2D(4, 3, padding="same", name="two")(one)
    total = layers.Activation("tanh")(layers.Add()([one, two]))
    return keras.Model(entering, layers.Dense(3, activation="softmax", name="out")(layers.Flatten()(total)))


def recurrent() -> Any:
    """Units that a recurrent layer reads, its own among them."""
    return keras.Sequential(
        [
            keras.Input((4, 3)),
            layers.Conv1D(5, 2, padding="causal", activation="tanh", name="conv"),
            layers.LSTM(4, name="memory"),
            layers.Dense(3, activation="softmax", name="out"),
        ]
    )


@pytest.mark.parametrize("made", [residual, recurrent])
def test_gates_are_the_slopes_of_what_is_read_of_a_unit(made: Any) -> None:
    keras.utils.set_random_seed(1)
    model, step = made(), 1e-2
    x, y = inputs(6, *model.input_shape[1:]), np.arange(6) % 3
    loss = keras.losses.SparseCategoricalCrossentropy(reduction=None)
    anatomy, known = senses(model, x, Objective(y, loss))
    assert len(anatomy.groups) >= 1
    for group in anatomy.groups:
        gates = sum(known.gates(consumer)[:, consumer.rows].sum(axis=2) for consumer in group.consumers)
        for unit in range(group.size):
            sides = []
            for gate in (1 + step, 1 - step):
                twin = keras.models.clone_model(model)
                twin.set_weights(model.get_weights())
                for consumer in group.consumers:
                    layer = twin.get_layer(consumer.layer)
                    weights = layer.get_weights()
                    kept = consumer.without(np.array([unit]), weights[consumer.index])
                    weights[consumer.index] = kept + gate * (weights[consumer.index] - kept)
                    layer.set_weights(weights)
                sides.append(np.asarray(loss(y, twin(x))))
            assert gates[:, unit] == pytest.approx((sides[0] - sides[1]) / (2 * step), abs=2e-3)


def classifier(width: int = 16) -> tuple[Any, Array, Array]:
    keras.utils.set_random_seed(2)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(width, activation="relu", name="hidden"),
            layers.Dense(3, activation="softmax", name="out"),
        ]
    )
    kernel, bias = model.get_layer("hidden").get_weights()
    model.get_layer("hidden").set_weights(
        [kernel * np.geomspace(0.02, 1, width).astype(np.float32), bias + 0.01]
    )
    x = inputs(300, 6)
    return model, x, np.random.default_rng(3).integers(0, 3, 300)


def test_taylor_orders_units_as_their_removal_changes_the_loss() -> None:
    model, x, y = classifier()
    loss = keras.losses.SparseCategoricalCrossentropy(reduction=None)
    found = scores("taylor", model, x, Objective(y, loss))["hidden"]
    anatomy = Anatomy(Graph(model))
    whole = np.asarray(loss(y, model(x)))
    truth = [
        float(np.sqrt(np.mean((np.asarray(loss(y, cut(x))) - whole) ** 2)))
        for cut in (anatomy.cut({"hidden": np.delete(np.arange(16), unit)}) for unit in range(16))
    ]
    assert spearmanr(found, truth).statistic > 0.95
    small = np.argsort(truth)[:4]
    assert found[small] == pytest.approx(np.array(truth)[small], rel=0.1)


def test_eigen_of_a_linear_model_is_what_the_formula_says() -> None:
    """The curvature of a unit is the square of what leads from it to the outputs, the same for all samples."""
    model, x = linear(), inputs(30, 4)
    found = scores("eigen", model, x)["hidden"]
    least = np.linalg.eigvalsh(x.T.astype(float) @ x / 30)[0]
    assert found == pytest.approx(np.sum(model.get_weights()[1] ** 2, axis=1) * least, rel=1e-4)


def test_eigen_looks_only_where_inputs_lie() -> None:
    model, x = linear(), inputs(30, 4)
    x[:, 3], x[:, 1] = 0, 2 * x[:, 0]
    found = scores("eigen", model, x)["hidden"]
    values = np.linalg.eigvalsh(x.T.astype(float) @ x / 30)
    assert values[1] == pytest.approx(0, abs=1e-6) and values[2] > 0.1
    assert found == pytest.approx(np.sum(model.get_weights()[1] ** 2, axis=1) * values[2], rel=1e-4)


def test_no_weights_of_a_unit_cost_less_than_eigen_says_for_their_length() -> None:
    """By brute force on a linear model: the loss without unit i is w_i^T H_i w_i / 2, at least lambda_i |w_i|^2 / 2."""
    model, x = linear(), inputs(40, 4)
    flattest = np.linalg.eigh(x.T.astype(float) @ x)[1][:, 0]
    kernel = model.get_layer("hidden").get_weights()[0]
    kernel[:, 0] = flattest
    model.get_layer("hidden").set_weights([kernel])
    found = scores("eigen", model, x)["hidden"]
    truth, bound = [], found * np.sum(kernel**2, axis=0) / 2
    for unit in range(5):
        cut = Anatomy(Graph(model)).cut({"hidden": np.delete(np.arange(5), unit)})
        truth.append(float(np.mean(np.sum((np.asarray(cut(x)) - np.asarray(model(x))) ** 2, axis=1))) / 2)
    assert (bound <= np.array(truth) * 1.001).all()
    assert bound[0] == pytest.approx(truth[0], rel=1e-2)


def test_eigen_of_blocks_made_in_parts_is_that_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = residual(), inputs(12, 5, 5, 2)
    whole = scores("eigen", model, x)
    monkeypatch.setattr(eigen, "_BLOCK_ELEMENTS", 800)
    for name, each in scores("eigen", model, x).items():
        np.testing.assert_allclose(each, whole[name], rtol=1e-6)


def test_eigen_cannot_judge_what_a_recurrent_layer_makes() -> None:
    found = scores("eigen", recurrent(), inputs(6, 4, 3))
    assert found["memory"] is None and found["conv"] is not None


def test_taylor_needs_labels_and_a_loss() -> None:
    model, x, y = classifier()
    options, loss = importance.load("taylor").Options(multiple=1), keras.losses.get("mse")
    for objective, words in (
        (None, "'taylor' needs the targets of its samples and a loss, received none"),
        (Objective(y[:5], loss), "needs a target for each of its samples, received 5"),
    ):
        with pytest.raises(ValueError, match=words):
            prune_model(model, "taylor", 0.5, options, x, objective=objective)
    found = prune_model(
        model,
        *("taylor", 0.5, options, x),
        objective=Objective(y, keras.losses.SparseCategoricalCrossentropy()),
    )
    assert found.model.get_layer("hidden").units == 8


def test_the_losses_of_several_outputs_add_up() -> None:
    model, x, y = classifier()
    hidden = model.get_layer("hidden").output
    two = keras.Model(model.inputs, [model.outputs[0], hidden])
    wanted = NamedArrays(dict(zip(output_names(two), (y, np.zeros((len(x), hidden.shape[1]))), strict=True)))
    losses = [keras.losses.SparseCategoricalCrossentropy(), keras.losses.get("mse")]

    def slopes(model: Any, targets: Samples, loss: Any) -> list[NDArray[np.float32]]:
        found = sample_gradients(model, [("hidden", 0)], x, Objective(targets, loss))
        return [kernel for (kernel,) in found]

    alone = keras.Model(model.inputs, hidden)
    parts = (
        slopes(model, y, losses[0]),
        slopes(alone, np.zeros((len(x), hidden.shape[1])), losses[1]),
    )
    np.testing.assert_allclose(slopes(two, wanted, losses), np.add(*parts), rtol=1e-5, atol=1e-7)


def test_a_plan_prunes_units_by_labels_to_a_budget(tmp_path: Path) -> None:
    values = {
        "name": "p",
        "model": {"source": "examples/iris_mlp.py:build"},
        "data": {"source": "sklearn:iris"},
        "train": {"epochs": 20, "learning_rate": 0.01},
        "prune": {
            "method": "taylor",
            "budget": {"parameters": 300},
            "allocation": "global",
            "taylor": {"multiple": 2},
            "refit_head": {"steps": 2},
        },
    }
    plan = read_values(values, plan_model(), overrides=(), folder=ROOT, name="test")
    report = engine.run_host_stages(plan, ROOT, Store(tmp_path), Progress(quiet=True), last="prune").report(
        "prune"
    )
    assert report["parameters_after"] <= 300 < report["parameters_before"]
    assert report["metric_after"] > 0.85

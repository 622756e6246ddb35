"""Element pruning of whole Keras models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from sklearn.datasets import load_digits

from pipeline.pruning import importance
from pipeline.pruning.budget import Budget
from pipeline.pruning.prune import PrunedModel, prune_model
from pipeline.pruning.rules import Rule

ELEMENT = [name for name in importance.names() if importance.load(name).GRANULARITY == "element"]


def model() -> Any:
    keras.utils.set_random_seed(0)
    made = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(4, 3, strides=2, padding="same", name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.DepthwiseConv2D(2, name="depthwise"),
            layers.Flatten(name="flat"),
            layers.Dense(10, activation="relu", name="hidden"),
            layers.Dense(3, name="out"),
        ]
    )
    random = np.random.default_rng(0)
    made.set_weights([0.1 + np.abs(random.normal(size=weight.shape)) for weight in made.get_weights()])
    for name in ("conv", "hidden", "out"):
        kernel, bias = made.get_layer(name).get_weights()
        made.get_layer(name).set_weights([random.normal(size=kernel.shape), bias])
    return made


def samples(count: int = 100) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, 6, 6, 2)).astype(np.float32)


def pruned(name: str, sparsity: float, subject: Any = None, **options: Any) -> PrunedModel:
    method = importance.load(name)
    return prune_model(subject or model(), name, sparsity, method.Options(**options), samples())


@pytest.mark.parametrize("name", ELEMENT)
def test_only_kernels_are_pruned_and_the_input_model_is_not_touched(name: str) -> None:
    subject = model()
    before = subject.get_weights()
    found = pruned(name, 0.5, subject)
    for mine, theirs in zip(subject.get_weights(), before, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert set(found.masks) == {"conv", "hidden", "out"}
    for layer in subject.layers:
        twin = found.model.get_layer(layer.name)
        untouched = slice(1, None) if layer.name in found.masks else slice(None)
        for mine, theirs in zip(twin.get_weights()[untouched], layer.get_weights()[untouched], strict=True):
            np.testing.assert_array_equal(mine, theirs)
    for layer, mask in found.masks.items():
        kernel = found.model.get_layer(layer).get_weights()[0]
        assert mask.shape == kernel.shape and not kernel[~mask].any()
    removed = sum(np.count_nonzero(~mask) for mask in found.masks.values())
    assert removed == round(0.5 * sum(mask.size for mask in found.masks.values()))


@pytest.mark.parametrize("name", ELEMENT)
def test_every_layer_is_accounted_for(name: str) -> None:
    found = pruned(name, 0.5)
    assert [decision.layer for decision in found.decisions] == [layer.name for layer in found.model.layers]
    by_name = {decision.layer: decision for decision in found.decisions}
    assert {layer for layer, decision in by_name.items() if decision.action == "pruned"} == set(found.masks)
    assert by_name["flat"].reason == "A layer of kind Flatten has no weights."
    assert (by_name["norm"].weights_before, by_name["norm"].weights_after) == (0, 0)
    assert by_name["depthwise"].weights_before == by_name["depthwise"].weights_after == 16
    assert by_name["hidden"].weights_after == np.count_nonzero(
        found.model.get_layer("hidden").get_weights()[0]
    )
    assert all(decision.reason.endswith(".") for decision in found.decisions)


@pytest.mark.parametrize("name", ELEMENT)
def test_a_sparsity_of_zero_changes_nothing(name: str) -> None:
    subject = model()
    found = pruned(name, 0, subject)
    assert found.masks == {}
    assert {decision.action for decision in found.decisions} == {"kept"}
    for mine, theirs in zip(found.model.get_weights(), subject.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("name", ELEMENT)
def test_what_is_zero_already_goes_first(name: str) -> None:
    subject = model()
    kernel, bias = subject.get_layer("hidden").get_weights()
    zero = np.random.default_rng(2).random(kernel.shape) < 0.3
    subject.get_layer("hidden").set_weights([np.where(zero, 0, kernel), bias])
    # Later layers move towards what they gave before; the first keeps its weights but for what it loses.
    only = keras.Sequential(
        [keras.Input(subject.get_layer("hidden").input.shape[1:]), subject.get_layer("hidden")]
    )
    entering = np.random.default_rng(3).normal(size=(200, kernel.shape[0])).astype(np.float32)
    method = importance.load(name)
    found = prune_model(only, name, 0.5, method.Options(), entering)
    assert not found.masks["hidden"][zero].any()


def test_hessian_repairs_in_later_layers_what_pruning_the_first_ones_broke() -> None:
    subject, x = model(), samples(400)[200:]
    wanted = np.asarray(subject(x))
    errors = {
        name: float(np.mean((np.asarray(pruned(name, 0.5, subject).model(x)) - wanted) ** 2))
        for name in ELEMENT
    }
    assert errors["hessian"] < errors["magnitude"] / 4


def test_hessian_sees_the_inputs_that_the_pruned_layers_give() -> None:
    """The last layer's kernel is the damped least squares from what enters it now to what left it before."""
    subject = model()
    found = pruned("hessian", 0.5, subject, damping=1e-6)
    x = samples()
    trained = np.asarray(keras.Model(subject.inputs[0], subject.get_layer("hidden").output)(x))
    now = np.asarray(keras.Model(found.model.inputs[0], found.model.get_layer("hidden").output)(x))
    assert np.abs(now - trained).max() > 0.01
    kernel = found.model.get_layer("out").get_weights()[0]
    for column, support in enumerate(found.masks["out"].T):
        wanted = trained @ subject.get_layer("out").get_weights()[0][:, column]
        exact, *_ = np.linalg.lstsq(now[:, support], wanted, rcond=None)
        np.testing.assert_allclose(kernel[support, column], exact, rtol=1e-2)


def test_hessian_keeps_the_accuracy_of_a_digit_reader_without_training() -> None:
    digits = load_digits()
    x, y = (digits.images / 16).astype(np.float32)[..., None], digits.target
    keras.utils.set_random_seed(0)
    reader = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, activation="relu", padding="same"),
            layers.Conv2D(32, 3, activation="relu", padding="same"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    reader.compile(optimizer="adam", loss=loss)
    reader.fit(x[:1300], y[:1300], epochs=6, verbose=0)

    def accuracy(of: Any) -> float:
        return float(np.mean(of.predict(x[1300:], verbose=0).argmax(axis=1) == y[1300:]))

    assert accuracy(reader) > 0.9
    options = importance.load("hessian").Options()
    found = prune_model(reader, "hessian", 0.8, options, x[: options.calibration_samples])
    sizes = sum(mask.size for mask in found.masks.values())
    assert sum(np.count_nonzero(~mask) for mask in found.masks.values()) == round(0.8 * sizes)
    assert accuracy(found.model) > accuracy(reader) - 0.015
    by_size = prune_model(reader, "magnitude", 0.8, importance.load("magnitude").Options(), None)
    assert accuracy(by_size.model) < accuracy(reader) - 0.1


def test_requests_that_make_no_sense_are_refused_in_words() -> None:
    options = importance.load("magnitude").Options()
    for sparsity in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="expected a sparsity of at least 0 and less than 1"):
            prune_model(model(), "magnitude", sparsity, options, None)
    with pytest.raises(ValueError, match="expected the options of 'hessian'"):
        prune_model(model(), "hessian", 0.5, options, samples())
    with pytest.raises(ValueError, match="'hessian' needs calibration samples"):
        prune_model(model(), "hessian", 0.5, importance.load("hessian").Options(), None)


def test_bad_input_is_named_before_any_work() -> None:
    hessian = importance.load("hessian").Options()
    with pytest.raises(ValueError, match="needs calibration samples, received none"):
        prune_model(model(), "hessian", 0.5, hessian, samples()[:0])
    subject = model()
    kernel, bias = subject.get_layer("hidden").get_weights()
    kernel[0, 0] = np.nan
    subject.get_layer("hidden").set_weights([kernel, bias])
    with pytest.raises(ValueError, match="the weights of 'hidden' are NaN or infinite"):
        prune_model(subject, "hessian", 0.5, hessian, samples())
    lamp = importance.load("lamp").Options()
    for more, words in (
        ({"allocation": "uniform"}, "'lamp' has no allocation 'uniform'; it has: global"),
        ({"rules": [Rule(layers="dense*", skip=True)]}, "no layer is called 'dense.*conv, norm, relu"),
        ({"budget": Budget(parameters=5)}, "expected a sparsity or a budget, received both"),
        ({"granularity": "1:4"}, "1:4 removes 0.75"),
    ):
        with pytest.raises(ValueError, match=words):
            prune_model(model(), "lamp", 0.5, lamp, None, **more)


@pytest.mark.parametrize("name", ELEMENT)
def test_a_sequence_model_is_pruned_where_the_method_can(name: str) -> None:
    sequence = keras.Sequential(
        [
            keras.Input((9, 3)),
            layers.Conv1D(4, 3, padding="causal", dilation_rate=2, name="conv"),
            layers.SeparableConv1D(6, 2, name="separable"),
            layers.EinsumDense("abc,cd->abd", (None, 5), name="einsum"),
            layers.LSTM(4, name="lstm"),
            layers.Dense(2, name="out"),
        ]
    )
    method = importance.load(name)
    x = np.random.default_rng(0).normal(size=(40, 9, 3)).astype(np.float32)
    # All layers alike, where the method can: so few outputs would keep every weight of the last.
    alike = "uniform" if "uniform" in method.ALLOCATIONS else "auto"
    found = prune_model(sequence, name, 0.5, method.Options(), x, allocation=alike)
    calibrated = {"conv", "einsum", "lstm/kernel", "lstm/recurrent_kernel", "out"}
    assert set(found.masks) == calibrated | (set() if method.NEEDS else {"separable"})
    if name == "hessian":
        moved = np.asarray(found.model.get_layer("conv")(x) - sequence.get_layer("conv")(x))
        decision = found.decisions[0]
        assert decision.loss_increase == pytest.approx(float(np.mean(np.sum(moved**2, axis=2))), rel=0.05)


def test_a_budget_counts_the_whole_model_and_leaves_it_within() -> None:
    options = importance.load("magnitude").Options()
    subject = model()
    found = prune_model(subject, "magnitude", None, options, None, budget=Budget(parameters=300))
    removed = sum(int(np.count_nonzero(~mask)) for mask in found.masks.values())
    assert subject.count_params() - removed == 300
    found = prune_model(subject, "magnitude", None, options, None, budget=Budget(macs=600))
    kernels = {name: found.model.get_layer(name).get_weights()[0] for name in ("conv", "hidden", "out")}
    spent = {name: int(np.count_nonzero(kernel)) for name, kernel in kernels.items()}
    assert 590 < 9 * spent["conv"] + spent["hidden"] + spent["out"] + 4 * 16 <= 600


def test_importing_imports_no_tensorflow() -> None:
    folder = Path(importance.__file__).parents[2]
    modules = [
        ".".join(("pipeline", *path.relative_to(folder).with_suffix("").parts))
        for package in ("pruning", "models")
        for path in sorted((folder / package).rglob("*.py"))
        if path.name != "__init__.py"
    ]
    assert "pipeline.pruning.importance.hessian" in modules
    program = f"import sys, {', '.join(modules)}\nassert not {{'tensorflow', 'keras'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=folder.parent, check=True)

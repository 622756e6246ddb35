"""One contract over every file of `importance/`, then what each of them promises."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.pruning import importance, masks
from pipeline.pruning.allocation import Request
from pipeline.pruning.calibration import Moments, moments
from pipeline.pruning.elements import prune_layers
from pipeline.pruning.granularity import parse
from pipeline.pruning.importance import lamp, obd
from pipeline.pruning.layer import Layer, Pruned
from tests.workspace import ROOT

METHODS = importance.names()
ELEMENT = [name for name in METHODS if importance.load(name).GRANULARITY == "element"]


def layer(name: str = "a", d: int = 6, r: int = 4, seed: int = 0, of: Moments | None = None) -> Layer:
    random = np.random.default_rng([seed, *name.encode()])
    x = random.normal(size=(50, d)) @ random.normal(size=(d, d))
    weight = random.normal(size=(d, r)).astype(np.float32)
    return Layer(name, "Dense", weight, lambda: of or moments([(x, x)]), lambda: np.ones(r))


def running(
    name: str,
    layers: list[Layer],
    sparsity: float,
    allocation: str | None = None,
    granularity: str = "element",
    **options: Any,
) -> Iterator[Pruned]:
    method: Any = importance.load(name)
    request = Request(sparsity, parse(granularity), allocation or method.ALLOCATIONS[0], {})
    return prune_layers(layers, method, method.Options(**options), request)


def prune(name: str, layers: list[Layer], sparsity: float, **more: Any) -> list[Pruned]:
    return list(running(name, layers, sparsity, **more))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_what_it_is(name: str) -> None:
    method = importance.load(name)
    assert method.UNIT in ("loss", "relative")
    assert method.GRANULARITY in ("element", "unit")
    assert not method.NEEDS - {"calibration", "labels"}
    assert set(method.ALLOCATIONS) <= {"uniform", "global", "erk", "row"}
    assert method.GRANULARITY == "element" or ("global" in method.ALLOCATIONS) == (method.UNIT == "loss")
    options = method.Options()
    with pytest.raises(ValidationError):
        method.Options.model_validate({"no such option": 1})
    for field in method.Options.model_fields:
        with pytest.raises(ValidationError):
            setattr(options, field, None)
    assert all(field.description for field in method.Options.model_fields.values())


@pytest.mark.parametrize("name", ELEMENT)
@pytest.mark.parametrize("sparsity", [0, 0.3, 0.8, 0.999])
def test_an_element_method_removes_what_it_was_asked_to_and_accounts_for_it(
    name: str, sparsity: float
) -> None:
    layers = [layer("a"), layer("b", 8, 3)]
    found = prune(name, layers, sparsity)
    assert sum(np.count_nonzero(~after.mask) for after in found) == masks.removals(sparsity, 24 + 24)
    for before, after in zip(layers, found, strict=True):
        assert after.name == before.name == after.decision.layer
        assert after.weight.shape == after.mask.shape == before.weight.shape
        assert after.weight.dtype == before.weight.dtype
        assert not after.weight[~after.mask].any()
        removed = np.count_nonzero(~after.mask)
        assert after.decision.action == ("pruned" if removed else "kept")
        assert after.decision.reason.endswith(".")
        assert after.decision.weights_before == before.weight.size
        assert after.decision.weights_after == np.count_nonzero(after.weight)
        assert (after.decision.loss_increase is None) == (importance.load(name).UNIT != "loss" or not removed)
        assert ("Nothing is left" in after.decision.reason) == (not after.mask.any())


@pytest.mark.parametrize("name", ELEMENT)
def test_an_element_method_yields_a_layer_before_its_last_look_at_the_next(name: str) -> None:
    looked: list[str] = []

    def watched(each: Layer) -> Layer:
        def looking() -> Moments:
            looked.append(each.name)
            return each.moments()

        return Layer(each.name, each.kind, each.weight, looking, each.sensitivity)

    found = running(name, [watched(layer("a")), watched(layer("b"))], 0.5)
    assert next(found).name == "a"
    looked.clear()
    assert next(found).name == "b"
    assert looked == (["b"] if importance.load(name).NEEDS else [])


@pytest.mark.parametrize("name", ELEMENT)
def test_an_element_method_answers_the_same_twice(name: str) -> None:
    once, again = (prune(name, [layer()], 0.5)[0] for _ in range(2))
    assert np.array_equal(once.weight, again.weight)


def test_an_unknown_method_is_told_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'magnitud'; known: eigen, hessian, hessian_units, lamp"):
        importance.load("magnitud")


def test_magnitude_by_layer_and_over_all() -> None:
    weak, strong = layer("weak"), layer("strong")
    layers = [replace(weak, weight=weak.weight / 1000), strong]
    by_layer = prune("magnitude", layers, 0.5)
    assert [np.count_nonzero(each.mask) for each in by_layer] == [12, 12]
    over_all = prune("magnitude", layers, 0.5, allocation="global")
    assert [np.count_nonzero(each.mask) for each in over_all] == [0, 24]
    assert over_all[0].decision.reason.endswith("Nothing is left of it.")
    assert over_all[1].decision.action == "kept"
    for before, after in zip(layers, by_layer, strict=True):
        assert np.array_equal(after.weight[after.mask], before.weight[after.mask])
        assert np.abs(before.weight[~after.mask]).max() < np.abs(before.weight[after.mask]).min()


def test_hessian_on_white_inputs_is_magnitude() -> None:
    white = layer(d=10, of=Moments(2 * np.eye(10), np.zeros((10, 10))))
    (mine,), (theirs,) = prune("hessian", [white], 0.6), prune("magnitude", [white], 0.6)
    assert np.array_equal(mine.mask, theirs.mask)
    np.testing.assert_allclose(mine.weight, theirs.weight, rtol=1e-6)
    assert mine.decision.loss_increase == pytest.approx(np.sum(white.weight[~mine.mask] ** 2), rel=1e-5)


def test_hessian_leaves_the_exact_least_squares_of_its_support() -> None:
    random = np.random.default_rng(3)
    x = random.normal(size=(60, 8)) @ random.normal(size=(8, 8))
    subject = layer(d=8, of=moments([(x, x)]))
    (after,) = prune("hessian", [subject], 0.5, damping=1e-6)
    increase = 0.0
    for column, support in enumerate(after.mask.T):
        wanted = x @ subject.weight[:, column]
        exact, *_ = np.linalg.lstsq(x[:, support], wanted, rcond=None)
        np.testing.assert_allclose(after.weight[support, column], exact, rtol=1e-3)
        increase += float(np.mean((x[:, support] @ exact - wanted) ** 2))
    assert after.decision.loss_increase == pytest.approx(increase, rel=1e-3)


def test_hessian_aims_at_what_the_layer_gave_before_its_inputs_were_pruned() -> None:
    random = np.random.default_rng(4)
    trained = random.normal(size=(80, 8)) @ random.normal(size=(8, 8))
    now = trained @ (np.eye(8) + 0.3 * random.normal(size=(8, 8))) + 0.1 * random.normal(size=(80, 8))
    subject = layer(d=8, of=moments([(now, trained)]))
    (after,) = prune("hessian", [subject], 0.5, damping=1e-6)
    for column, support in enumerate(after.mask.T):
        exact, *_ = np.linalg.lstsq(now[:, support], trained @ subject.weight[:, column], rcond=None)
        np.testing.assert_allclose(after.weight[support, column], exact, rtol=1e-3)


def test_hessian_shares_the_budget_of_a_layer_by_loss_or_evenly() -> None:
    subject = layer(d=10, r=4)
    uneven = replace(subject, weight=subject.weight * np.float32([0.01, 1, 1, 1]))
    (by_loss,), (even,) = (prune("hessian", [uneven], 0.5, allocation=way) for way in ("uniform", "row"))
    assert np.count_nonzero(~by_loss.mask) == np.count_nonzero(~even.mask) == 20
    assert not by_loss.mask[:, 0].any()
    assert (even.mask.sum(axis=0) == 5).all()
    assert by_loss.decision.loss_increase < even.decision.loss_increase


def test_hessian_shares_the_budget_of_a_model_by_relative_loss() -> None:
    """A layer whose inputs are nearly of rank one gives up more than one that needs all of its inputs."""
    random = np.random.default_rng(8)
    alike = random.normal(size=(60, 1)) @ np.ones((1, 8)) + 0.01 * random.normal(size=(60, 8))
    needed = layer("a", d=8, of=Moments(2 * np.eye(8), np.zeros((8, 8))))
    redundant = layer("b", d=8, of=moments([(alike, alike)]))
    layers = [replace(needed, weight=needed.weight / 1000), redundant]
    first, second = prune("hessian", layers, 0.5, scale="share")
    assert np.count_nonzero(~first.mask) + np.count_nonzero(~second.mask) == 32
    assert np.count_nonzero(second.mask) < 8 < np.count_nonzero(first.mask)
    by_layer = prune("hessian", layers, 0.5, allocation="uniform")
    assert [np.count_nonzero(each.mask) for each in by_layer] == [16, 16]


def test_hessian_counts_silent_inputs_and_reports_its_damping() -> None:
    x = np.random.default_rng(6).normal(size=(30, 6)) * [1, 1, 0, 1, 1, 0]
    (after,) = prune("hessian", [layer(of=moments([(x, x)]))], 0.5, damping=0.01)
    assert "2 of its 6 inputs were zero in every calibration sample." in after.decision.reason
    assert after.decision.damping == pytest.approx(0.01 * 2 * np.mean(x**2))
    assert not after.mask[[2, 5]].any()


def test_hessian_by_sensitivity_spares_the_outputs_that_the_model_depends_on() -> None:
    subject = layer(d=8, of=Moments(2 * np.eye(8), np.zeros((8, 8))))
    needed = replace(subject, sensitivity=lambda: np.array([1e6, 1, 1, 0]))
    (after,) = prune("hessian", [needed], 0.5)
    assert after.mask.sum(axis=0)[[0, 3]].tolist() == [8, 0]
    quiet, loud = (
        replace(layer(name, d=8), sensitivity=lambda scale=scale: np.full(4, scale))
        for name, scale in (("a", 1e-6), ("b", 1.0))
    )
    first, second = prune("hessian", [quiet, loud], 0.5)
    assert not first.mask.any() and second.mask.all()


@pytest.mark.parametrize("wide", [{"max_fan_in": 7}, {"max_gigaflops": 1e-7}])
def test_hessian_sweeps_layers_that_are_too_wide(wide: dict[str, Any]) -> None:
    found = prune("hessian", [layer("a", d=8), layer("b", d=8)], 0.6, **wide)
    assert sum(np.count_nonzero(~each.mask) for each in found) == round(0.6 * 64)
    assert all(
        "in one sweep" in each.decision.reason or "solved for" in each.decision.reason for each in found
    )


def test_hessian_goes_by_the_pattern_and_by_blocks() -> None:
    for options in ({}, {"max_fan_in": 1}):
        (patterned,) = prune("hessian", [layer(d=10)], 0.5, granularity="2:4", **options)
        kept = np.add.reduceat(patterned.mask.astype(int), [0, 4, 8], axis=0)
        assert (kept == 2).all()
        (blocks,) = prune("hessian", [layer(d=10)], 0.5, granularity="1x4", **options)
        for start in (0, 4, 8):
            part = blocks.mask[start : start + 4]
            assert (part.all(axis=0) | ~part.any(axis=0)).all()
        (pairs,) = prune("hessian", [layer(d=10, r=5)], 0.5, granularity="output2", **options)
        assert np.array_equal(pairs.mask[:, 0], pairs.mask[:, 1])
        assert np.array_equal(pairs.mask[:, 2], pairs.mask[:, 3])
        assert not pairs.weight[~pairs.mask].any()


def test_lamp_sees_each_weight_against_those_that_stay() -> None:
    subject = Layer("a", "Dense", np.float32([[1, -2], [0, 3]]), layer().moments)
    found = lamp.scores(subject, parse("element"), lamp.Options())
    np.testing.assert_allclose(found, [[1 / 14, 4 / 13], [0, 1]])


@pytest.mark.parametrize("name", ["lamp", "magnitude"])
def test_within_a_layer_lamp_is_magnitude(name: str) -> None:
    (found,) = prune(name, [layer(d=9)], 0.5)
    assert np.abs(layer(d=9).weight[~found.mask]).max() < np.abs(layer(d=9).weight[found.mask]).min()


def test_obd_is_the_loss_of_each_weight_alone() -> None:
    subject = layer(d=5)
    moved = subject.moments().hessian
    found = obd.scores(subject, parse("element"), obd.Options())
    for i, j in np.ndindex(5, 4):
        gone = np.zeros((5, 4))
        gone[i, j] = subject.weight[i, j]
        assert found[i, j] == pytest.approx(np.sum(gone * (moved @ gone)) / 2)
    blocks = obd.scores(subject, parse("1x4"), obd.Options())
    np.testing.assert_allclose(blocks, [found[:4].sum(axis=0), found[4]])


@pytest.mark.parametrize("options", [each.Options for each in map(importance.load, METHODS)])
def test_options_can_be_written_and_read(options: Any) -> None:
    assert options.model_validate_json(options().model_dump_json()) == options()


def test_streamed_moments_are_those_of_one_batch() -> None:
    random = np.random.default_rng(7)
    now, trained = (random.normal(size=(50, 5)).astype(np.float32) for _ in range(2))
    whole = moments([(now, trained)])
    streamed = moments((now[part], trained[part]) for part in (slice(0, 7), slice(7, 8), slice(8, 50)))
    np.testing.assert_allclose(streamed.hessian, whole.hessian, atol=1e-12)
    np.testing.assert_allclose(streamed.drift, whole.drift, atol=1e-12)
    mean = now.mean(axis=0)
    np.testing.assert_allclose(
        whole.hessian, 2 * np.cov(now.T, bias=True) + 2 * np.outer(mean, mean), atol=1e-6
    )
    np.testing.assert_allclose(moments([(now, now)]).drift, 0)


def test_moments_refuse_nothing_and_what_is_not_finite() -> None:
    with pytest.raises(ValueError, match="received none"):
        moments([])
    with pytest.raises(ValueError, match="received NaN or infinity"):
        moments([(np.full((2, 2), np.nan), np.zeros((2, 2)))])


@pytest.mark.parametrize("document", ["README.md", "docs/pruning.md"])
def test_documents_name_every_method(document: str) -> None:
    text = (ROOT / document).read_text()
    assert [name for name in METHODS if f"`{name}`" not in text] == []

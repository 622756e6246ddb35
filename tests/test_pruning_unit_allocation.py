"""How many units of each group stay: closed forms, brute force, budgets against the model that is left, rules."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from keras import layers

from benchmarks._random_graphs import random_graph
from pipeline.models.graph import Graph
from pipeline.models.operations import multiply_accumulates
from pipeline.pruning import importance
from pipeline.pruning.budget import Budget
from pipeline.pruning.prune import prune_model
from pipeline.pruning.rules import Rule, Terms
from pipeline.pruning.surgery.cut import Anatomy
from pipeline.pruning.unit_allocation import UnitRequest, kept, staying
from pipeline.pruning.units import _cost_without

SIZES = {"a": 30, "b": 10, "c": 4}


def parameters(sizes: Mapping[str, int], leaving: Mapping[str, int]) -> int:
    """Of a perceptron of 5 inputs, these layers and 2 outputs."""
    widths = [5, *(size - leaving.get(name, 0) for name, size in sizes.items()), 2]
    return sum((before + 1) * after for before, after in itertools.pairwise(widths))


def losses(name: str) -> Any:
    return np.random.default_rng([*name.encode()]).exponential(size=SIZES[name])


@given(size=st.integers(1, 40), removed=st.integers(0, 40), multiple=st.integers(1, 9))
def test_units_are_kept_in_multiples_and_never_fewer_than_asked(
    size: int, removed: int, multiple: int
) -> None:
    count = kept(size, min(removed, size), multiple)
    asked = max(1, size - removed)
    assert asked <= count <= size and count < asked + multiple
    assert count % multiple == 0 or count == size


def test_uniform_leaves_every_group_the_same_share() -> None:
    assert staying({"a": 300, "b": 100}, UnitRequest(0.5, "uniform"), losses) == {"a": 150, "b": 50}
    assert staying({"a": 300, "b": 100}, UnitRequest(0.5, "uniform", 8), losses) == {"a": 152, "b": 56}
    assert staying({"a": 3, "b": 1}, UnitRequest(0.99, "uniform"), losses) == {"a": 1, "b": 1}


def test_global_removes_the_units_of_least_loss() -> None:
    found = staying(SIZES, UnitRequest(0.5, "global"), losses)
    threshold = np.sort(np.concatenate([losses(name) for name in SIZES]))[21]
    assert found == {name: int(np.count_nonzero(losses(name) > threshold)) for name in SIZES}


@settings(max_examples=60, deadline=None)
@given(
    limit=st.integers(20, 600), allocation=st.sampled_from(["uniform", "global"]), multiple=st.integers(1, 8)
)
def test_a_budget_is_met_and_undercut_by_less_than_a_multiple_of_a_group(
    limit: int, allocation: str, multiple: int
) -> None:
    def costs(leaving: Mapping[str, int]) -> int:
        return parameters(SIZES, leaving)

    request = UnitRequest(Budget(parameters=limit), allocation, multiple, cost=costs)
    floor = costs({name: size - kept(size, size - 1, multiple) for name, size in SIZES.items()})
    if limit < floor:
        with pytest.raises(ValueError, match=f"with all removed that may be, {floor:,} are left"):
            staying(SIZES, request, losses)
        return
    found = staying(SIZES, request, losses)
    leaving = {name: size - found[name] for name, size in SIZES.items()}
    assert costs(leaving) <= limit
    assume(any(leaving.values()))
    one_more = [
        costs(leaving | {name: size - min(size, (found[name] // multiple + 1) * multiple)})
        for name, size in SIZES.items()
        if leaving[name]
    ]
    assert max(one_more) > limit


def test_under_a_budget_losses_count_by_what_a_unit_frees() -> None:
    """Where what units free adds up, the loss is the least of all choices that free as much."""
    sizes, freed = {"wide": 5, "narrow": 5}, {"wide": 10, "narrow": 1}
    each = {"wide": np.array([2.0, 3, 4, 5, 60]), "narrow": np.array([0.25, 0.5, 1, 3, 9])}

    def costs(leaving: Mapping[str, int]) -> int:
        return 100 - sum(freed[name] * count for name, count in leaving.items())

    def spent(counts: Mapping[str, int]) -> float:
        return sum(float(np.sort(each[name])[:count].sum()) for name, count in counts.items())

    found = staying(sizes, UnitRequest(Budget(macs=70), "global", cost=costs), each.__getitem__)
    leaving = {name: 5 - count for name, count in found.items()}
    choices = [{"wide": one, "narrow": other} for one, other in itertools.product(range(5), repeat=2)]
    assert costs(leaving) <= 70
    assert spent(leaving) == min(spent(choice) for choice in choices if costs(choice) <= costs(leaving))


def test_rules_are_kept() -> None:
    terms = {"a": Terms(sparsity=2 / 3, sparsity_by="a"), "b": Terms(min_keep=7), "c": Terms(skipped_by="c")}
    assert staying(SIZES, UnitRequest(0.9, "uniform", terms=terms | {"b": Terms()}), losses) == {
        "a": 10,
        "b": 1,
        "c": 4,
    }
    with pytest.raises(
        ValueError, match=r"a sparsity of 0.9 cannot be met: min_keep leaves 0.3000 to remove"
    ):
        staying(SIZES, UnitRequest(0.9, "uniform", terms=terms), losses)
    with pytest.raises(ValueError, match=r"a: a sparsity of 0.8 cannot be met: min_keep leaves 0.6667"):
        staying(SIZES, UnitRequest(0.1, "uniform", terms={"a": Terms(sparsity=0.8, min_keep=10)}), losses)


@pytest.mark.filterwarnings("ignore:.*was passed an input with a mask attached")
@pytest.mark.parametrize("seed", range(8))
def test_the_cost_is_that_of_the_model_that_is_left(seed: int) -> None:
    random = np.random.default_rng(seed)
    model = random_graph(random)
    trained = Graph(model)
    anatomy = Anatomy(trained)
    leaving = {group.name: int(random.integers(0, group.size)) for group in anatomy.groups}
    left = anatomy.cut({group.name: np.arange(leaving[group.name], group.size) for group in anatomy.groups})
    for budget, expected in (
        (Budget(parameters=1), left.count_params()),
        (Budget(file_bytes=1), 4 * left.count_params()),
    ):
        assert _cost_without(trained, anatomy, budget)(leaving) == expected
    try:
        expected = sum(multiply_accumulates(node) for node in Graph(left).nodes.values())
    except ValueError:  # a text of any length
        return
    assert _cost_without(trained, anatomy, Budget(macs=1))(leaving) == expected


def perceptron() -> Any:
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((20,)),
            layers.Dense(30, activation="relu", name="first"),
            layers.Dense(12, activation="relu", name="second"),
            layers.Dense(3, name="out"),
        ]
    )


def pruned(
    method: str, sparsity: float | None = None, calibration: Any = None, multiple: int = 1, **more: Any
) -> Any:
    options = importance.load(method).Options(multiple=multiple)
    return prune_model(perceptron(), method, sparsity, options, calibration, **more)


@pytest.mark.parametrize(
    ("method", "allocation"), [("neuron", "auto"), ("hessian_units", "auto"), ("hessian_units", "global")]
)
@pytest.mark.parametrize("multiple", [1, 4])
def test_a_model_is_cut_to_its_budget(method: str, allocation: str, multiple: int) -> None:
    x = np.random.default_rng(0).normal(size=(200, 20)).astype(np.float32)
    found = pruned(method, None, x, multiple, budget=Budget(parameters=400), allocation=allocation)
    first, second = (found.model.get_layer(name).units for name in ("first", "second"))
    assert found.model.count_params() == 21 * first + (first + 1) * second + 3 * (second + 1) <= 400
    assert first % multiple == second % multiple == 0
    assert found.model.count_params() > 400 - multiple * (21 + 12)


def test_layers_get_widths_of_their_own_and_are_told_so() -> None:
    rules = [Rule(layers="first", sparsity=2 / 3), Rule(layers="second", min_keep=8)]
    found = pruned("neuron", 0.2, rules=rules)
    assert [found.model.get_layer(name).units for name in ("first", "second")] == [10, 10]
    told = {each.layer: each.reason for each in found.decisions}
    assert told["first"].endswith("The rule for 'first' gives it a sparsity of its own, 0.666667.")
    assert told["second"].startswith("2 of 12 units were removed")
    assert "A rule keeps 8 of its units, at least." in told["second"]
    whole = pruned("neuron", 0.5, rules=[Rule(layers="sec*", skip=True)])
    assert [whole.model.get_layer(name).units for name in ("first", "second")] == [15, 12]
    assert whole.decisions[1].reason.split(".")[0] == "The rule for 'sec*' leaves all its 12 units in place"


def test_coupled_layers_go_by_the_name_of_either() -> None:
    entering = keras.Input((6,))
    one, other = layers.Dense(8, name="one")(entering), layers.Dense(8, name="other")(entering)
    model = keras.Model(entering, layers.Dense(2, name="out")(layers.Add()([one, other])))
    for name in ("one", "other"):
        rules = [Rule(layers=name, sparsity=0.75)]
        found = prune_model(
            model, "neuron", 0.0, importance.load("neuron").Options(multiple=1), None, rules=rules
        )
        assert [found.model.get_layer(each).units for each in ("one", "other")] == [2, 2]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"budget": Budget(parameters=20)}, "a budget of 20 parameters cannot be met"),
        (
            {"budget": Budget(macs=1)},
            "a budget of 1 macs cannot be met: with all removed that may be, 24 are",
        ),
        ({"sparsity": 0.9, "rules": [Rule(layers="first", min_keep=20)]}, "sparsity of 0.9 cannot be met"),
        ({"sparsity": 0.5, "rules": [Rule(layers="fist", skip=True)]}, "no layer is called 'fist'"),
        ({"sparsity": 0.5, "granularity": "1x4"}, "'hessian_units' removes whole units"),
        ({"sparsity": 0.5, "allocation": "row"}, "has no allocation 'row'; it has: uniform, global"),
        ({"sparsity": 0.5, "budget": Budget(macs=1)}, "expected a sparsity or a budget, received both"),
    ],
)
def test_what_cannot_be_met_is_said_before_any_unit_is_judged(
    monkeypatch: pytest.MonkeyPatch, more: Any, words: str
) -> None:
    def scores(*args: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(importance.load("hessian_units"), "scores", scores)
    with pytest.raises(ValueError, match=words):
        pruned("hessian_units", calibration=np.zeros((4, 20), np.float32), **more)


def test_scores_of_units_are_told_apart_in_the_order_in_which_they_leave() -> None:
    """A removal that costs less than the one before it is not taken for an equal of it."""
    model = perceptron()
    x = np.random.default_rng(1).normal(size=(100, 20)).astype(np.float32)
    found = [
        prune_model(
            model, "hessian_units", share, importance.load("hessian_units").Options(multiple=1), x
        ).model
        for share in (0.5, 0.6)
    ]
    more, fewer = ({tuple(column) for column in each.get_layer("first").get_weights()[0].T} for each in found)
    assert fewer < more and len(more) == 15 and len(fewer) == 12

"""Who gives how much: closed forms, budgets and rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.pruning import importance
from pipeline.pruning.allocation import Request, quotas
from pipeline.pruning.budget import Budget, Fixed, cost
from pipeline.pruning.elements import prune_layers
from pipeline.pruning.granularity import parse
from pipeline.pruning.layer import Layer
from pipeline.pruning.rules import Rule, terms
from pipeline.sparse_tflite import encoding

METHOD: Any = importance.load("magnitude")


def layer(name: str, *shape: int, kind: str = "Dense", positions: int = 1) -> Layer:
    def never() -> Any:
        raise AssertionError

    weight = np.random.default_rng([*name.encode()]).normal(size=shape).astype(np.float32)
    return Layer(name, kind, weight.reshape(-1, shape[-1]), never, never, shape, positions)


def removed(layers: list[Layer], request: Request) -> list[int]:
    found = quotas(layers, request, lambda each: np.abs(each.weight))
    return [found[each.name].blocks for each in layers]


def request(
    goal: float | Budget, allocation: str = "uniform", granularity: str = "element", **more: Any
) -> Request:
    return Request(goal, parse(granularity), allocation, **({"terms": {}} | more))


def test_uniform_takes_the_same_share_of_every_layer_and_in_all_what_was_asked_for() -> None:
    layers = [layer("a", 10, 10), layer("b", 7, 3), layer("c", 20, 9)]
    found = removed(layers, request(0.8))
    assert sum(found) == round(0.8 * 301)
    assert all(abs(count - 0.8 * each.weight.size) <= 1 for count, each in zip(found, layers, strict=True))


def test_row_takes_the_same_share_of_every_output() -> None:
    found = quotas([layer("a", 10, 7)], request(0.5, "row"), lambda each: each.weight)["a"]
    assert (found.blocks, found.evenly) == (35, True)


def test_global_takes_the_lowest_of_all() -> None:
    layers = [layer("a", 10, 10), layer("b", 7, 3)]
    threshold = np.sort(np.concatenate([np.abs(each.weight).ravel() for each in layers]))[59]
    assert removed(layers, request(60 / 121, "global")) == [
        int(np.sum(np.abs(each.weight) <= threshold)) for each in layers
    ]


def test_erk_keeps_shares_in_proportion_and_never_more_than_all() -> None:
    """Of Evci et al.: density_l = min(1, eps * sum(dimensions) / product), eps such that the total is as asked."""
    layers = [layer("a", 3, 3, 16, 32, kind="Conv2D"), layer("b", 200, 100), layer("small", 4, 5)]
    raw = np.array([(3 + 3 + 16 + 32) / (3 * 3 * 16 * 32), 300 / 20000, 9 / 20])
    sizes = np.array([each.weight.size for each in layers])
    found = np.array(removed(layers, request(0.9, "erk")))
    kept = round(0.1 * sizes.sum())
    eps = (kept - 20) / (raw[:2] * sizes[:2]).sum()
    assert eps * raw[2] > 1
    assert (sizes - found).sum() == pytest.approx(kept, abs=1)
    np.testing.assert_allclose(sizes - found, np.minimum(eps * raw, 1) * sizes, atol=1.01)


@settings(max_examples=20, deadline=None)
@given(st.integers(40, 301), st.sampled_from(["uniform", "global", "erk"]))
def test_a_budget_of_parameters_is_met_exactly(limit: int, allocation: str) -> None:
    layers = [layer("a", 10, 10), layer("b", 7, 3), layer("c", 20, 9)]
    found = removed(layers, request(Budget(parameters=limit), allocation, fixed=Fixed(parameters=40)))
    assert 40 + 301 - sum(found) == limit


def test_a_budget_of_macs_counts_positions() -> None:
    layers = [layer("a", 10, 10, positions=50), layer("b", 100, 10)]
    asked = request(Budget(macs=3000), fixed=Fixed(macs=7))
    a, b = removed(layers, asked)
    spent = 7 + 50 * (100 - a) + (1000 - b)
    assert 3000 - 50 < spent <= 3000
    with pytest.raises(
        ValueError, match="a budget of 5 macs cannot be met: with all removed that may be, 7 are"
    ):
        removed(layers, request(Budget(macs=5), fixed=Fixed(macs=7)))


def test_a_budget_of_bytes_is_what_sparse_storage_takes_at_most() -> None:
    layers = [layer("a", 300, 20), layer("conv", 3, 3, 2, 8, kind="Conv2D")]
    asked = request(Budget(file_bytes=6000), fixed=Fixed(parameters=28))
    found = prune_layers(layers, METHOD, METHOD.Options(), asked)
    weights = {each.name: each.weight for each in found}
    stored = encoding.encode(weights["a"].T, encoding.csr(2)).nbytes + 4 * 144 + 4 * 28
    assert 5950 < stored <= 6000
    for nonzeros in (0, 1, 255, 256, 3000):
        dense = np.zeros((20, 300), np.float32)
        dense.flat[np.random.default_rng(0).permutation(6000)[:nonzeros]] = 1
        exact = encoding.encode(dense, encoding.csr(2)).nbytes
        assert exact <= encoding.estimated_bytes(20, 300, nonzeros) <= exact + 300
    assert cost("file_bytes", layers, {"a": 6000, "conv": 144}, Fixed(28)) == 4 * (6000 + 144 + 28)


def test_a_budget_is_one_measure() -> None:
    for given_ in ({}, {"macs": 1, "parameters": 1}):
        with pytest.raises(ValidationError, match="exactly one"):
            Budget.model_validate(given_)


def test_of_each_key_the_first_rule_that_matches_counts() -> None:
    rules = (
        Rule(layers="conv1", skip=False),
        Rule(layers="conv*", skip=True, min_keep=3),
        Rule(layers="*", sparsity=0.5, min_keep=16),
    )
    found = terms(rules, ["conv1", "conv2", "dense"])
    assert [each.skipped_by for each in found.values()] == [None, "conv*", None]
    assert [each.min_keep for each in found.values()] == [3, 3, 16]
    assert found["dense"].sparsity == 0.5 and found["dense"].sparsity_by == "*"
    with pytest.raises(ValueError, match=r"no layer is called 'dens'; there are: conv1, dense"):
        terms([Rule(layers="dens", skip=True)], ["conv1", "dense"])
    with pytest.raises(ValidationError, match="says nothing"):
        Rule(layers="*")


def test_rules_are_kept_and_told() -> None:
    layers = [layer("conv1", 10, 10), layer("dense1", 10, 10), layer("dense2", 10, 10)]
    rules = [
        Rule(layers="conv*", skip=True),
        Rule(layers="dense1", sparsity=0.5),
        Rule(layers="*2", min_keep=30),
    ]
    asked = request(0.7, "global", terms=terms(rules, [each.name for each in layers]))
    skipped, own, rest = prune_layers(layers, METHOD, METHOD.Options(), asked)
    assert skipped.mask.all() and skipped.decision.reason == "The rule for 'conv*' leaves it whole."
    assert np.count_nonzero(own.mask) == 50
    assert own.decision.reason.endswith("The rule for 'dense1' gives it a sparsity of its own, 0.5.")
    assert np.count_nonzero(rest.mask) == 30
    assert rest.decision.reason.endswith("A rule keeps 30 of its weights, at least.")


def test_what_rules_leave_no_room_for_is_refused() -> None:
    layers = [layer("a", 10, 10), layer("b", 10, 10)]
    floor = terms([Rule(layers="*", min_keep=30)], ["a", "b"])
    with pytest.raises(ValueError, match=r"sparsity of 0.9 cannot be met: min_keep leaves 0.7000"):
        removed(layers, request(0.9, terms=floor))
    both = terms([Rule(layers="a", min_keep=30), Rule(layers="*", sparsity=0.8)], ["a", "b"])
    with pytest.raises(ValueError, match=r"a: a sparsity of 0.8 cannot be met"):
        removed(layers, request(0.8, terms=both))
    with pytest.raises(ValueError, match=r"a budget of 59 parameters cannot be met.*60 are left"):
        removed(layers, request(Budget(parameters=59), terms=floor))
    with pytest.raises(ValueError, match="2:4 leaves 48 of its weights, and a rule keeps 50"):
        more = terms([Rule(layers="*", min_keep=50)], ["a"])
        list(
            prune_layers(
                [layer("a", 10, 8)], METHOD, METHOD.Options(), request(0.5, granularity="2:4", terms=more)
            )
        )


@pytest.mark.parametrize("granularity", ["1x4", "output2", "output4"])
def test_blocks_keep_what_a_rule_says_and_meet_a_budget(granularity: str) -> None:
    layers = [layer("a", 9, 5), layer("b", 10, 7)]
    floor = terms([Rule(layers="*", min_keep=11)], ["a", "b"])
    asked = request(Budget(parameters=60), "global", granularity, terms=floor)
    found = list(prune_layers(layers, METHOD, METHOD.Options(), asked))
    kept = [int(np.count_nonzero(each.mask)) for each in found]
    assert min(kept) >= 11 and 40 <= sum(kept) <= 60

"""Random graphs: without units they compute what they do with these units masked; the benchmark has 1,000 of them."""

from __future__ import annotations

import pytest

from benchmarks._random_graphs import outcome

GRAPHS = 50


@pytest.mark.parametrize("first", range(0, GRAPHS, 10))
def test_a_random_graph_without_units_is_the_graph_with_them_masked(first: int) -> None:
    found = [outcome(seed) for seed in range(first, first + 10)]
    assert max(each.difference for each in found) <= 1e-5
    assert all(each.shrank() for each in found)
    assert sum(each.units > 0 for each in found) > 5

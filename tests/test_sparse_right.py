"""What is written for sparse inference is right or refused: a seeded twentieth of `make bench SUITE=sparse_right`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks import sparse_right
from benchmarks._sparse_graphs import network
from targets import emulation
from targets.errors import TargetError
from tests.loopback_sshd import free_port
from tests.requirements_for_tests import skip_or_fail


@pytest.fixture
def devices(home: Path) -> Iterator[None]:
    try:
        for name in sparse_right.DEVICES:
            emulation.up(name, port=free_port())
    except TargetError as error:
        skip_or_fail(str(error))
    yield
    for name in sparse_right.DEVICES:
        emulation.down(name)


@pytest.mark.device
def test_nothing_that_is_written_is_silently_wrong_or_does_not_load(devices: None) -> None:
    seeds = np.random.default_rng(0).choice(sparse_right.GRAPHS, sparse_right.GRAPHS // 20, replace=False)
    found = sparse_right.batch([int(seed) for seed in seeds])
    assert len(found) == 4 * len(seeds)
    assert [missed for each in found for missed in each["missed"]] == []
    assert sum(each["runs"] for each in found) > len(seeds), "hardly an operator runs sparse"


def test_generated_networks_depend_on_their_seed_only() -> None:
    one, again, other = network(1), network(1), network(2)
    assert [weight.shape for weight in one.weights] == [weight.shape for weight in again.weights]
    assert all(np.array_equal(*pair) for pair in zip(one.get_weights(), again.get_weights(), strict=True))
    assert one.count_params() != other.count_params()

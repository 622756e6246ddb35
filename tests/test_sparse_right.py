"""What is written for sparse inference is right or refused: a seeded twentieth of `make bench SUITE=sparse_right`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks import _device_runs, sparse_right
from benchmarks._sparse_graphs import network
from benchmarks.sparse_right import npy
from pipeline.locate import read_target
from targets import emulation
from targets.errors import TargetError
from tests.loopback_sshd import free_port
from tests.requirements_for_tests import skip_or_fail
from tests.tflite_files import matrix_file

# In int8, a Dense layer without a bias: its dense file, too, ended a runtime's process.
CRASHED = 437


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
    drawn = np.random.default_rng(0).choice(sparse_right.GRAPHS, sparse_right.GRAPHS // 20, replace=False)
    seeds = sorted({*map(int, drawn), CRASHED})
    found = sparse_right.batch(seeds)
    assert len(found) == 4 * len(seeds)
    assert [missed for each in found for missed in each["missed"]] == []
    assert sum(each["runs"] for each in found) > len(seeds), "hardly an operator runs sparse"


def test_a_run_that_fails_or_dies_is_an_outcome_of_its_own(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = read_target("local").model_copy(update={"workdir": str(tmp_path)})
    worker = _device_runs.Worker("local", target, "ai-edge-litert")
    matrix = np.arange(12, dtype=np.float32).reshape(3, 4)
    held = {
        "model": matrix_file(matrix, at="dense"),
        "damaged": b"none",
        "inputs": npy(np.eye(4, dtype=np.float32)),
    }
    worker.send(held)
    good, damaged = (_device_runs.Run(name, "inputs", delegate=False) for name in ("model", "damaged"))
    first, failed, last = worker.run([good, damaged, good])
    assert np.array_equal(first.outputs[0], matrix.T) and np.array_equal(last.outputs[0], matrix.T)
    assert first.operators == ("FULLY_CONNECTED",) and failed.error and not failed.outputs
    monkeypatch.setattr(_device_runs, "RUN_S", 1e-6)
    assert ["died" in each.error for each in worker.run([good, good])] == [True, True]


def test_generated_networks_depend_on_their_seed_only() -> None:
    one, again, other = network(1), network(1), network(2)
    assert [weight.shape for weight in one.weights] == [weight.shape for weight in again.weights]
    assert all(np.array_equal(*pair) for pair in zip(one.get_weights(), again.get_weights(), strict=True))
    assert one.count_params() != other.count_params()

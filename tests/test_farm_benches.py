"""A small share of the farm's benches: chaos on both databases, and what scheduling keeps in memory."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks import farm_chaos, farm_schedule
from benchmarks._farm_lab import Board
from benchmarks.farm_chaos import Found, chaos
from tests.farm_for_tests import each_database, postgres_socket
from tests.loopback_sshd import SSHD
from tests.requirements_for_tests import skip_or_fail

socket = pytest.fixture(scope="module")(postgres_socket)
url = pytest.fixture(params=["sqlite", "postgresql"])(each_database)


def test_in_chaos_every_job_is_done_once_on_a_board_of_its_own(url: str, tmp_path: Path) -> None:
    if not SSHD.exists():
        skip_or_fail(f"{SSHD} is missing: apt-get install openssh-server")
    folder = tmp_path / "lab"
    folder.mkdir()
    found = chaos(url, folder, boards=4, flaky=1, jobs=24, kills=2, ttl_s=4, dice=random.Random(7))
    assert [*found.double, *found.lost, *found.duplicates] == [] and found.kills == 2
    assert found.back_s <= farm_chaos.BACK_S
    # On a busy machine connections fail by themselves, too.
    assert found.states.total() == 24 and found.share_done >= 0.9


@pytest.mark.parametrize(
    ("log", "double", "duplicates"),
    [
        ("begin 1 a\nend 1 a\nbegin 2 b\nend 2 b\n", 0, 0),
        # A job that was ended by the next lease's.
        ("begin 1 a\nbegin 2 a\nend 2 a\n", 0, 0),
        ("begin 1 a\nbegin 2 b\nend 1 a\nend 2 b\n", 1, 0),
        ("begin 2 b\nbegin 1 a\nend 1 a\n", 1, 0),
        ("begin 1 a\nend 1 a\nbegin 1 a\nend 1 a\n", 0, 1),
    ],
)
def test_the_audit_finds_what_must_not_be(tmp_path: Path, log: str, double: int, duplicates: int) -> None:
    (tmp_path / "log").write_text(log)
    found = Found(jobs=2)
    farm_chaos.audit([Board("board", tmp_path, 0, 0)], {}, found)
    assert (len(found.double), len(found.duplicates)) == (double, duplicates)


def test_the_audit_finds_a_result_that_no_board_has_to_show_for(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("begin 1 a\nend 1 a\nbegin 2 b\n")
    found = Found(jobs=2)
    farm_chaos.audit([Board("board", tmp_path, 0, 0)], {"a": {"token": 1}, "b": {"token": 2}}, found)
    assert found.lost == ["b: no board has done what its result says"]


def test_scheduling_does_every_job_in_memory_that_does_not_grow(tmp_path: Path) -> None:
    found = farm_schedule.schedule(f"sqlite:///{tmp_path / 'history.db'}", devices=20, count=1000)
    assert found["done"] == 1000
    assert found["late_mb"] <= found["early_mb"] * (1 + farm_schedule.GROWTH)

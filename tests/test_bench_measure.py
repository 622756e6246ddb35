"""A share of the bench of the agent's numbers: what is known beforehand, and that its sessions give the rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import _measure_peer as peer
from benchmarks import _remembered, measure
from benchmarks._measure_models import WIDER, WIDTH, widened
from benchmarks._measure_sessions import MADE_BY, ready, this_machine
from pipeline.plan import MeasureSection
from pipeline.source_digest import local_sources
from targets.device import Device
from tests.workspace import ROOT


@pytest.fixture
def device(home: Path) -> Iterator[Device]:
    with this_machine() as found:
        yield found


def test_memory_is_the_truth(device: Device) -> None:
    rows = measure.memory(device)
    assert len(rows) == 4
    assert all(row.held for row in rows), rows


def test_what_the_agent_adds_is_told(device: Device) -> None:
    assert "ns in the median of 6 processes" in measure.overhead(device).found


def test_sessions_give_their_rows(device: Device) -> None:
    pair = ready(device, {"plain": widened(WIDTH), "wider": widened(WIDER)})
    slower = [measure.slowdown(pair, 2)]
    assert list(slower[0]["medians_ns"]) == ["plain", "wider"]
    assert all(len(each) == 2 for each in slower[0]["medians_ns"].values())
    # A machine with other work to do may make any session invalid: these rows are of what was not.
    believed = [{**each, "state": "valid"} for each in (*measure.same_file(pair, 1)[:1], *slower)]
    assert "of 1 (" in measure.same_row(believed[:1], 1).found
    assert "of 1 sessions" in measure.slower_row(believed[1:], 1, believed[1]).found


def test_what_was_measured_by_other_code_is_measured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    digested: set[Path] = set()

    def collected(*asked: Any) -> str:
        digested.update(local_sources(*asked))
        return ""

    monkeypatch.setattr(_remembered, "source_digest", collected)
    _remembered.code(*MADE_BY)
    assert digested >= {
        ROOT / path
        for path in (
            "benchmarks/measure.py",
            "benchmarks/_measure_peer.py",
            "benchmarks/_measure_sessions.py",
            "device_agents/timing.py",
            "pipeline/measurement/validity.py",
            "pipeline/stages/measure.py",
            "targets/provisioning/runtimes.py",
        )
    }


def test_the_peer_of_another_version_has_another_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPIPE_HOME", str(tmp_path))
    made = []
    for version in ("1", "2"):
        monkeypatch.setattr(peer, "PEER", f"pip=={version}")
        folder = peer.folder()
        folder.mkdir(parents=True)
        folder.joinpath("ready").touch()
        made.append(peer.environment())
    assert made[0] != made[1]


def session(change: float, state: str = "valid", reasons: tuple[str, ...] = ()) -> dict[str, Any]:
    """What is kept of one in which `again` took so much longer, as a share, give or take 1 %."""
    ratio = {"value": 1 + change, "low": 0.99 + change, "high": 1.01 + change}
    medians = {"model": [1e6, 1e6], "again": [1e6 * (1 + change), 1e6 * (1.02 + change)]}
    return {"state": state, "reasons": list(reasons), "medians_ns": medians, "ratio": ratio}


def test_intervals_that_always_hold_are_too_wide_and_those_that_miss_too_narrow() -> None:
    good, bad, invalid = session(0.0), session(0.02), session(0.5, "invalid")
    assert measure.same_row([good] * 95 + [bad] * 5 + [invalid], 100).held
    assert not measure.same_row([good] * 100, 100).held
    assert not measure.same_row([good] * 90 + [bad] * 10, 100).held


def test_a_slowdown_is_found_or_not() -> None:
    found, missed = session(0.03), session(0.005)
    assert measure.slower_row([found] * 19 + [missed], 20, found).held
    assert not measure.slower_row([found] * 18 + [missed] * 2, 20, found).held


def test_fewer_sessions_than_promised_hold_no_goal() -> None:
    found, invalid = session(0.03), session(0.03, "invalid")
    assert not measure.slower_row([found] * 19 + [invalid] * 21, 20, found).held
    assert not measure.slower_row([found] * 20, 20, invalid).held
    assert not measure.same_row([session(0.0)] * 95 + [found] * 4 + [invalid] * 101, 100).held
    assert not measure.peer_row(beside_the_peer(1.0, 0.01), 41).held


def test_the_spread_is_that_of_the_pairs() -> None:
    expected = np.std(np.log([1.0, 1.02]), ddof=1)
    assert measure.spread_row([session(0.0)] * 3).found == f"{expected:.2%}"


def test_clean_sessions_that_are_marked_are_counted_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    marked = session(0, "suspect", ("again: 1 of 2 processes were not steady", "times drifted by +7%"))
    assert measure.clean_row([session(0)] * 49 + [marked]).held
    assert not measure.clean_row([session(0)] * 48 + [marked] * 2).held
    assert "2 x # of # processes were not steady" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("share", "noise", "held"), [(1.0, 0.01, True), (1.02, 0.01, False), (1.0, 0.2, False)]
)
def test_beside_the_peer_the_interval_must_hold_1_and_be_narrow(
    share: float, noise: float, held: bool
) -> None:
    assert measure.peer_row(beside_the_peer(share, noise), 40).held is held


class Turns:
    """In place of a device, of litert-benchmark and of a model that takes 5 ms: who took a turn, each time."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.files = {"a": SimpleNamespace(path=Path("a"))}

    def session(self, options: MeasureSection, variants: dict[str, str]) -> dict[str, Any]:
        self.taken += ["ours"] * options.repetitions
        return {
            "state": "suspect",
            "reasons": ["noise"],
            "medians_ns": {"model": [5e6] * options.repetitions},
        }

    def median_ms(self, programs: Path, path: Path, runs: int) -> float:
        self.taken.append("theirs")
        return 5.0


def test_who_is_held_beside_the_peer_takes_as_many_turns_as_it(monkeypatch: pytest.MonkeyPatch) -> None:
    turns, found = Turns(), []
    monkeypatch.setattr(peer, "median_ms", turns.median_ms)
    for number in range(2):
        turns.taken.clear()
        found.append(measure.both({"a": turns}, Path("programs"), number))
        at = {whose: np.flatnonzero(np.array(turns.taken) == whose) for whose in ("ours", "theirs")}
        assert len(at["ours"]) == len(at["theirs"]) == 4 and at["ours"].mean() == at["theirs"].mean()
    assert "1.0000" in measure.peer_row(found, 2).found
    assert measure.disturbed_row([each for one in found for each in one["ours"]["a"]]).found == "4 of 4"


def beside_the_peer(share: float, noise: float) -> list[dict[str, Any]]:
    """40 sessions in which ours took that share of the peer's 5 ms."""
    random = np.random.default_rng(0)
    return [
        {
            "state": "valid",
            "ours": {
                name: [{"medians_ns": {"model": [share * 5e6 * np.exp(noise * random.normal())] * 2}}] * 2
                for name in "ab"
            },
            "theirs": {name: [5.0] * 4 for name in "ab"},
        }
        for _ in range(40)
    ]


def test_a_machine_on_which_nothing_can_be_compared_misses_its_goals() -> None:
    invalid = session(0, "invalid")
    found = [
        measure.same_row([invalid], 1),
        measure.slower_row([invalid], 1, invalid),
        measure.spread_row([invalid]),
    ]
    found.append(measure.peer_row([{"state": "invalid"}], 1))
    assert [row.held for row in found] == [False] * 4

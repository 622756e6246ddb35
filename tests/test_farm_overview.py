"""`edgepipe farm`: who has what, what is aside, and a device brought back by hand, on both databases."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.cli import app
from pipeline.errors import UserError
from pipeline.farm import overview
from pipeline.farm.leases import Leases, open_farm
from pipeline.farm.policy import Policy
from pipeline.farm.queue import Job, Queue
from tests.farm_for_tests import Clock, each_database, postgres_socket

socket = pytest.fixture(scope="module")(postgres_socket)
url = pytest.fixture(params=["sqlite", "postgresql"])(each_database)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def farm(url: str, clock: Clock) -> Iterator[Leases]:
    with contextlib.closing(open_farm(url)) as database:
        yield Leases(database, clock)


def put_aside(farm: Leases, device: str) -> None:
    """By two failures in a row, for 100 s."""
    queue = Queue(farm, Policy(patience=2, probation_s=100))
    lease = farm.acquire(device, "ann")
    assert queue.device_failed(lease, "nobody answers") == ""
    assert queue.device_failed(lease, "nobody answers") == "aside"
    farm.release(lease)


def test_every_device_is_told_with_its_lease_its_standing_and_its_jobs(farm: Leases, clock: Clock) -> None:
    queue = Queue(farm)
    queue.submit([Job("a", "board"), Job("b", "board"), Job("c", "idle")])
    put_aside(farm, "broken")
    lease = farm.acquire("board", "ann", ttl_s=30)
    assert queue.take(lease) is not None
    clock.now += 10
    assert overview.standings(farm) == [
        overview.Standing("board", "ann", 20.0, 0.0, 0, "", {"queued": 1, "running": 1}),
        overview.Standing("broken", None, None, 90.0, 2, "nobody answers", {}),
        overview.Standing("idle", None, None, 0.0, 0, "", {"queued": 1}),
    ]
    assert [(each["device"], each["what"]) for each in overview.happened(farm, 3)] == [
        ("broken", "aside"),
        ("broken", "released"),
        ("board", "acquired"),
    ]
    assert [each["what"] for each in overview.happened(farm, 1, "broken")] == ["released"]


def test_a_device_that_was_restored_is_tried_at_once(farm: Leases) -> None:
    put_aside(farm, "board")
    queue = Queue(farm)
    queue.submit([Job("a", "board")])
    assert queue.wait_s("board") == 100
    assert overview.restore(farm, "board") and not overview.restore(farm, "board")
    assert queue.wait_s("board") == 0
    last = overview.happened(farm, 1)[0]
    assert (last["what"], last["detail"]) == ("restored", "by hand")


def test_a_device_that_nobody_knows_is_not_restored(farm: Leases) -> None:
    put_aside(farm, "board-1")
    with pytest.raises(UserError, match="did you mean 'board-1'"):
        overview.restore(farm, "bord-1")


def test_the_commands(farm: Leases, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    def edgepipe(*arguments: str) -> Any:
        app(["farm", *arguments, "--history", url, "--json"], standalone_mode=False)
        return json.loads(capsys.readouterr().out)

    assert edgepipe("status") == {"farm": farm.farm, "devices": [], "events": []}
    put_aside(farm, "board")
    found = edgepipe("status", "--device", "board", "--last", "1")
    assert [each["failures"] for each in found["devices"]] == [2]
    assert [each["what"] for each in found["events"]] == ["released"]
    app(["farm", "status", "--history", url], standalone_mode=False)
    assert "nobody answers" in " ".join(capsys.readouterr().out.split())
    assert edgepipe("restore", "board") == {"device": "board", "restored": True}
    assert edgepipe("status")["devices"][0]["failures"] == 0
    # A target names its device.
    put_aside(farm, "local: this machine")
    assert [each["failures"] for each in edgepipe("status", "--device", "local")["devices"]] == [2]
    assert edgepipe("restore", "local") == {"device": "local: this machine", "restored": True}
    with pytest.raises(UserError, match="no such target"):
        edgepipe("restore", "bord")

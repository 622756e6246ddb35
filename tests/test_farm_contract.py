"""What each engine promises alike: one contract, over this process's threads and over a Ray cluster of two nodes."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.farm.engines import Farm
from pipeline.farm.heart import Hold
from pipeline.farm.leases import Leases, open_farm
from pipeline.farm.policy import Policy
from pipeline.farm.queue import Job, Outcome
from pipeline.farm.station import Station
from targets.device import DeviceBusy
from targets.errors import TargetError
from tests import ray_cluster
from tests.loopback_sshd import free_port
from tests.ray_cluster import ITS_WARNINGS, NODE
from tests.waiting import awaited

AT_ONCE = Policy(retry_s=0, probation_s=0, quarantines=1)
Engine = Callable[[Farm, list[Job]], list[Outcome]]
pytestmark = ITS_WARNINGS


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with ray_cluster.cluster() as made:
        yield made


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param == "ray":
        request.getfixturevalue("cluster")
    run: Engine = importlib.import_module(f"pipeline.farm.engines.{request.param}").run
    return run


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'history.db'}"


def stations(count: int, down: str = "") -> dict[str, Station]:
    def check(name: str) -> Callable[[], None]:
        def answers() -> None:
            if name == down:
                raise TargetError(f"{name}: nobody answers")

        return answers

    return {
        f"board-{number}": Station(f"board-{number}", check(f"board-{number}")) for number in range(count)
    }


def jobs(count: int, devices: int) -> list[Job]:
    return [
        Job(f"job-{number:02}", f"board-{number % devices}", {"number": number}) for number in range(count)
    ]


def logging_in(folder: Path) -> Callable[[Job, Hold], dict[str, Any]]:
    """Work that appends its token to a file of the job's name, where the device is attended to."""
    return lambda job, hold: hold.run(functools.partial(written, folder, job))


def written(folder: Path, job: Job, hold: Hold) -> dict[str, Any]:
    with (folder / job.key).open("a") as log:
        log.write(f"{hold.lease.token}\n")
    if job.payload.get("broken"):
        raise UserError("the plan names no model")
    return {"squared": job.payload["number"] ** 2}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    folder = tmp_path / "log"
    folder.mkdir()
    return folder


def times(log: Path) -> dict[str, int]:
    return {path.name: len(path.read_text().split()) for path in log.iterdir()}


def test_every_job_is_done_once_and_its_result_comes_back(engine: Engine, url: str, log: Path) -> None:
    wanted, farm = jobs(12, 3), Farm(url, stations(3), logging_in(log))
    found = engine(farm, wanted)
    assert [(each.key, each.state, each.result) for each in found] == [
        (job.key, "done", {"squared": job.payload["number"] ** 2}) for job in wanted
    ]
    assert engine(farm, wanted) == found
    assert times(log) == {job.key: 1 for job in wanted}
    with contextlib.closing(open_farm(url)) as database:
        assert Leases(database).held() == []


def test_a_device_that_is_not_there_is_refused_at_once(engine: Engine, url: str, log: Path) -> None:
    with pytest.raises(UserError, match="bord-7: no device of this farm; known: board-0, board-1"):
        engine(Farm(url, stations(2), logging_in(log)), [*jobs(4, 2), Job("x", "bord-7")])
    assert times(log) == {}


def test_what_fails_keeps_nothing_else_waiting(engine: Engine, url: str, log: Path) -> None:
    wanted = [*jobs(6, 3), Job("broken", "board-0", {"broken": True})]
    found = engine(Farm(url, stations(3, down="board-1"), logging_in(log), AT_ONCE), wanted)
    down = "board-1 is out of order: board-1: nobody answers"
    assert {(each.key, each.state, each.error) for each in found} == {
        *((f"job-{number:02}", "done", None) for number in (0, 2, 3, 5)),
        *((f"job-{number:02}", "failed", down) for number in (1, 4)),
        ("broken", "failed", "the plan names no model"),
    }


def test_what_goes_wrong_at_a_device_is_told_as_it_was(engine: Engine, url: str) -> None:
    """One that somebody has is asked again; a bug is raised in the end."""
    tries: list[int] = []

    def work(job: Job, hold: Hold) -> dict[str, Any]:
        tries.append(hold.lease.token)
        return hold.run(busy if len(tries) < 3 else broken)

    with pytest.raises(ZeroDivisionError):
        engine(Farm(url, stations(1), work, Policy(busy_s=0)), jobs(1, 1))
    assert tries == [1, 2, 3]


def busy(hold: Hold) -> dict[str, Any]:
    raise DeviceBusy("another job has the device", "locked")


def broken(hold: Hold) -> dict[str, Any]:
    return {"quotient": 1 // 0}


def test_what_stands_on_this_machine_is_left_to_it(engine: Engine, url: str) -> None:
    here = {name: replace(station, here=True) for name, station in stations(2).items()}
    found = engine(Farm(url, here, lambda job, hold: {"pid": hold.run(lambda _: os.getpid())}), jobs(2, 2))
    assert [each.result for each in found] == [{"pid": os.getpid()}] * 2


def test_a_lease_that_is_lost_ends_what_is_under_way(engine: Engine, url: str, tmp_path: Path) -> None:
    begun = tmp_path / "begun"

    def work(job: Job, hold: Hold) -> dict[str, Any]:
        # The first time its lease is lost, as when the database has lent the device again.
        if hold.lease.token == 1:
            threading.Thread(target=lambda: lost_once_begun(begun, hold)).start()
        return hold.run(functools.partial(until_lost, begun))

    (found,) = engine(Farm(url, stations(1), work), jobs(1, 1))
    assert (found.state, found.result, found.failures) == ("done", {"token": 2}, 0)


def lost_once_begun(begun: Path, hold: Hold) -> None:
    awaited(begun.exists)
    hold.lose()


def until_lost(begun: Path, hold: Hold) -> dict[str, Any]:
    if hold.lease.token == 1:
        begun.touch()
        hold.lost.wait()
        raise TargetError("the connection was closed")
    return {"token": hold.lease.token}


@pytest.mark.ray
def test_a_node_that_is_killed_costs_only_what_was_under_way(cluster: Any, url: str, log: Path) -> None:
    import ray

    from pipeline.farm.engines import ray as engine

    doomed = cluster.add_node(**NODE)
    cluster.wait_for_nodes()
    head = ray.get_runtime_context().get_node_id()

    def work(job: Job, hold: Hold) -> dict[str, Any]:
        return hold.run(functools.partial(hanging_elsewhere, head, log, job))

    def kill() -> None:
        awaited(lambda: list(log.glob("hanging-*")))
        cluster.remove_node(doomed, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    wanted = jobs(16, 4)
    found = engine.run(Farm(url, stations(4), work), wanted)
    killer.join()
    assert [(each.key, each.state, each.result, each.failures) for each in found] == [
        (job.key, "done", {"squared": job.payload["number"] ** 2}, 0) for job in wanted
    ]
    hung = {path.name.removeprefix("hanging-") for path in log.glob("hanging-*")}
    done = {key: count for key, count in times(log).items() if not key.startswith("hanging-")}
    assert hung and done == {job.key: 2 if job.key in hung else 1 for job in wanted}


def hanging_elsewhere(head: str, log: Path, job: Job, hold: Hold) -> dict[str, Any]:
    """Done by the node of that id; by any other never, until it is killed."""
    import ray

    found = written(log, job, hold)
    if ray.get_runtime_context().get_node_id() != head:
        (log / f"hanging-{job.key}").touch()
        threading.Event().wait()
    return found


def test_without_ray_the_engine_says_what_to_install(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    import sys

    from pipeline.farm.engines import ray as engine

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'edgepipe\[ray\]'"):
        engine.run(Farm(url, {}, lambda job, hold: {}), [])


@pytest.mark.ray
def test_where_no_cluster_is_the_engine_says_so_at_once(
    monkeypatch: pytest.MonkeyPatch, cluster: Any
) -> None:
    import ray

    from pipeline.farm.engines import ray as engine

    nowhere = f"127.0.0.1:{free_port()}"
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", nowhere)
    with pytest.raises(UserError, match=f"no Ray cluster at {nowhere}: .*refused; correct RAY_ADDRESS"):
        engine.ready()

"""What each engine promises alike: one contract, over this process's threads and over a Ray cluster of two nodes."""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
from collections.abc import Callable, Iterator
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
from targets.errors import TargetError

ROOT = Path(__file__).parent.parent
AT_ONCE = Policy(retry_s=0, probation_s=0, quarantines=1)
Engine = Callable[[Farm, list[Job]], list[Outcome]]
# Ray's own, which are not ours to mend.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes, each a set of processes of its own."""
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    small = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=small)
    ray.init(
        address=made.address,
        namespace="edgepipe",
        log_to_driver=False,
        configure_logging=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
    )
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(params=["local", "ray"])
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
    """Work that appends its token to a file of the job's name."""

    def work(job: Job, hold: Hold) -> dict[str, Any]:
        with (folder / job.key).open("a") as log:
            log.write(f"{hold.lease.token}\n")
        if job.payload.get("broken"):
            raise UserError("the plan names no model")
        return {"squared": job.payload["number"] ** 2}

    return work


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


def test_a_node_that_is_killed_costs_only_what_was_under_way(cluster: Any, url: str, log: Path) -> None:
    import ray

    from pipeline.farm.engines import ray as engine

    doomed = cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
    cluster.wait_for_nodes()
    head = ray.get_runtime_context().get_node_id()
    write = logging_in(log)

    def work(job: Job, hold: Hold) -> dict[str, Any]:
        found = write(job, hold)
        if ray.get_runtime_context().get_node_id() != head:
            (log / f"hanging-{job.key}").touch()
            # Until its node is killed.
            threading.Event().wait()
        return found

    def kill() -> None:
        while not list(log.glob("hanging-*")):
            pass
        cluster.remove_node(doomed, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    wanted = jobs(16, 4)
    found = engine.run(Farm(url, stations(4), work, ttl_s=3), wanted)
    killer.join()
    assert [(each.key, each.state, each.result) for each in found] == [
        (job.key, "done", {"squared": job.payload["number"] ** 2}) for job in wanted
    ]
    hung = {path.name.removeprefix("hanging-") for path in log.glob("hanging-*")}
    done = {key: count for key, count in times(log).items() if not key.startswith("hanging-")}
    assert hung and done == {job.key: 2 if job.key in hung else 1 for job in wanted}


def test_without_ray_the_engine_says_what_to_install(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    import sys

    from pipeline.farm.engines import ray as engine

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'edgepipe\[ray\]'"):
        engine.run(Farm(url, {}, lambda job, hold: {}), [])

"""A night by the engine ray: over two nodes of a real cluster, on real SSH servers, and without Ray."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import select

from pipeline.artifacts import Store
from pipeline.errors import UserError
from pipeline.farm import attend, nightly_file
from pipeline.farm.case import VARIANTS
from pipeline.farm.leases import open_farm
from pipeline.farm.night import Night
from pipeline.farm.nightly import Nightly
from pipeline.farm.station import Station, station_of
from pipeline.farm.tables import jobs
from pipeline.progress import Progress
from targets.target import TargetBase
from tests import ray_cluster
from tests.loopback_sshd import loopback_sshd
from tests.ray_cluster import ITS_WARNINGS, NODE
from tests.waiting import awaited
from tests.workspace import Workspace

pytestmark = ITS_WARNINGS
BOARDS = [f"board-{number}" for number in range(3)]
NIGHTLY = f"""
name: small
engine: ENGINE
plans: [{{plan: plan.yaml, set: [train.epochs=2]}}]
targets: [{", ".join(BOARDS)}]
repetitions: REPETITIONS
thresholds: {{metric: 1.0}}
"""


@pytest.fixture
def farm(tmp_path: Path, home: Path) -> Iterator[Workspace]:
    """A folder with boards that are SSH servers here."""
    farm = Workspace(tmp_path, home)
    (tmp_path / "targets").mkdir()
    with contextlib.ExitStack() as servers:
        for name in BOARDS:
            folder = tmp_path / name
            folder.mkdir()
            options = servers.enter_context(loopback_sshd(folder))
            said = {
                "transport": "ssh",
                "ssh": options.model_dump(exclude_none=True) | {"ssh_config": None},
                "workdir": str(folder / "work"),
                "install_path": str(folder / "installed"),
                # This machine's other work makes no session of an emulated device invalid.
                "emulated": True,
            }
            (tmp_path / "targets" / f"{name}.yaml").write_text(yaml.safe_dump(said))
        yield farm


@pytest.fixture
def cluster(home: Path) -> Iterator[Any]:
    with ray_cluster.cluster() as made:
        yield made


def new_night(farm: Workspace, engine: str, repetitions: int) -> Nightly:
    """A night, in which baselines that were accepted stay."""
    file = farm.folder / "nightly.yaml"
    said = file.read_text() if file.exists() else NIGHTLY
    said = re.sub("(?m)^engine: .*", f"engine: {engine}", said)
    file.write_text(re.sub("(?m)^repetitions: .*", f"repetitions: {repetitions}", said))
    runs, store = farm.folder / "runs", Store(farm.folder / "store")
    return Nightly(nightly_file.read(file), store, runs, history(farm), Progress(quiet=True))


def history(farm: Workspace) -> str:
    return f"sqlite:///{farm.folder / 'history.db'}"


def anywhere(name: str, target: TargetBase) -> Station:
    """As if it stood on no machine of ours."""
    found = station_of(name, target)
    return Station(found.device, found.check, rest_s=found.rest_s)


def kill_when_measuring(cluster: Any, doomed: Any, farm: Workspace) -> tuple[set[str], set[str]]:
    """Kill a node while it measures on a board; returns those that it measured on, and all that it had."""
    import ray

    def all_of_them() -> list[str]:
        actors: list[str] = ray.util.list_named_actors()
        return actors if len(actors) == len(BOARDS) else []

    actors = awaited(all_of_them)
    nodes = {name: ray.get(ray.get_actor(name).__ray_call__.remote(its_node)) for name in actors}
    theirs = {
        board
        for board in BOARDS
        if any(f":{port(farm, board)}:" in name and node == doomed.node_id for name, node in nodes.items())
    }
    assert theirs
    outputs = {board: farm.folder / board / "work" / "outputs" for board in theirs}
    at = awaited(lambda: {board for board, folder in outputs.items() if list(folder.glob("*.npy"))})
    cluster.remove_node(doomed, allow_graceful=False)
    return at, theirs


def its_node(attendant: object) -> str:
    import ray

    node: str = ray.get_runtime_context().get_node_id()
    return node


def port(farm: Workspace, board: str) -> int:
    said = yaml.safe_load((farm.folder / "targets" / f"{board}.yaml").read_text())
    return int(said["ssh"]["port"])


@pytest.mark.ray
def test_a_night_of_which_a_node_dies_is_green(
    farm: Workspace, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attend, "station_of", anywhere)
    url = history(farm)
    first = new_night(farm, "local", repetitions=2)
    assert {job.ended for job in saved(first).jobs} == {"done"}
    accept = ("baseline", "accept", str(first.folder), "--reason", "the first", "--history", url)
    accepted = farm.run(*accept)
    assert accepted.code == 0, accepted.err
    doomed = cluster.add_node(**NODE)
    cluster.wait_for_nodes()
    second = new_night(farm, "ray", repetitions=5)
    with ThreadPoolExecutor() as pool:
        killing = pool.submit(kill_when_measuring, cluster, doomed, farm)
        found = second.run()
        measuring, theirs = killing.result()
    assert found.exit_code == 0, found.verdicts
    assert {job.target: job.ended for job in found.jobs} == dict.fromkeys(BOARDS, "done")
    # Every job was done once, nothing is held against a device, and what was lost is what the node was at.
    with contextlib.closing(open_farm(url)) as database, database.writing() as connection:
        rows = connection.execute(select(jobs).where(jobs.c.owner == second.id)).all()
    assert [(row.state, row.failures) for row in rows] == [("done", 0)] * len(BOARDS)
    lost = {row.key.rpartition("/")[2] for row in rows if row.losses}
    assert measuring <= lost <= theirs
    for job in found.jobs:
        tries = {path.parent for path in (second.folder / "jobs" / "small" / job.target).rglob("result.json")}
        assert error(second.folder / str(job.folder), job.target) is None
        failed = [error(folder, job.target) or "" for folder in tries - {second.folder / str(job.folder)}]
        assert ["is gone" in each for each in failed] == [True] * (job.target in lost)
    rows_of = farm.run("history", "list", "--history", url, "--last", "1000", "--json").json
    tonight = [row["target"] for row in rows_of if (row["run"], row["variant"]) in candidates_of(found)]
    assert sorted(tonight) == BOARDS and len(rows_of) == 2 * len(VARIANTS) * len(BOARDS)


def error(folder: Path, target: str) -> str | None:
    """What a job's result says went wrong."""
    found: str | None = json.loads((folder / "result.json").read_text())["targets"][target]["error"]
    return found


def candidates_of(night: Night) -> set[tuple[str | None, str]]:
    return {(job.run, "candidate") for job in night.jobs}


def saved(nightly: Nightly) -> Night:
    """A night with its document."""
    from pipeline.farm import night

    found = nightly.run()
    night.save(found, nightly.folder)
    return found


def test_without_ray_nothing_is_begun(farm: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    night = new_night(farm, "ray", repetitions=2)
    with pytest.raises(UserError, match=r"pip install 'edgepipe\[ray\]'"):
        night.run()
    assert not night.folder.exists()

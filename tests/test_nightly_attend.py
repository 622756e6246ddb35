"""A night's jobs through the farm's engine: whose they are, and what becomes of those that fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from pipeline.engine import HostRun, UserFiles
from pipeline.farm.attend import Attendance
from pipeline.farm.engines import Farm, local
from pipeline.farm.heart import Hold
from pipeline.farm.leases import Leases, open_farm
from pipeline.farm.policy import Policy
from pipeline.farm.queue import Job, Queue
from pipeline.farm.session import NightlyJob
from pipeline.farm.station import Station
from pipeline.history.database import writing
from pipeline.locate import read_plan, read_target
from pipeline.result import TargetResult
from tests.farm_for_tests import each_database, postgres_socket
from tests.workspace import Workspace

socket = pytest.fixture(scope="module")(postgres_socket)
url = pytest.fixture(params=["sqlite", "postgresql"])(each_database)
PASSED = {"emulated": False, "transport": "local", "exit_code": 0, "headline": "measured"}


def failing(code: int, error: str) -> dict[str, Any]:
    return {**PASSED, "exit_code": code, "headline": error, "error": error}


def attended(folder: Path, *said: dict[str, Any]) -> tuple[dict[str, str], list[tuple[int, bool]]]:
    """What is missing after a night of one job on this machine whose tries end as `said`; the tries, by number and
    whether the device was held."""
    Workspace(folder, folder / "home")
    plan, _ = read_plan(str(folder / "plan.yaml"))
    job = NightlyJob("local", read_target("local"), plan, HostRun(UserFiles.of(plan, folder)), None)
    tries: list[tuple[int, bool]] = []

    def measure(job: NightlyJob, hold: Hold, number: int) -> TargetResult:
        tries.append((number, bool(hold.lease.token) and not hold.lost.is_set()))
        return TargetResult.model_validate(said[len(tries) - 1])

    policy = Policy(tries=3, retry_s=0, probation_s=0)
    night = Attendance("night-1", f"sqlite:///{folder / 'farm.db'}", policy, measure)
    return night.run({"small/local": job}), tries


def test_a_night_takes_only_its_own_jobs(url: str) -> None:
    database = open_farm(url)
    queue = Queue(Leases(database))
    theirs, mine = [Job(f"{who}-{n}", "board", owner=who) for who in ("them", "me") for n in range(2)], []
    queue.submit(theirs[:2])

    def work(job: Job, hold: Hold) -> dict[str, Any]:
        mine.append(job.key)
        return {}

    farm = Farm(url, {"board": Station("board", lambda: None)}, work, owner="me")
    assert [each.state for each in local.run(farm, theirs[2:])] == ["done", "done"]
    assert mine == ["me-0", "me-1"]
    assert [each.state for each in queue.outcomes(["them-0", "them-1"])] == ["queued", "queued"]
    database.close()


def test_what_the_device_failed_is_tried_again_under_a_lease(tmp_path: Path, home: Path) -> None:
    missing, tries = attended(tmp_path, failing(3, "the cable came off"), PASSED)
    assert missing == {} and tries == [(0, True), (1, True)]


def test_what_fails_every_time_is_missing_with_the_reason(tmp_path: Path, home: Path) -> None:
    missing, tries = attended(tmp_path, *[failing(3, f"cable {n}") for n in range(3)])
    assert missing == {"small/local": "cable 2"} and len(tries) == 3


@pytest.mark.parametrize("code", [2, 4])
def test_what_is_no_device_s_fault_is_not_tried_again(tmp_path: Path, home: Path, code: int) -> None:
    missing, tries = attended(tmp_path, failing(code, "the plan is at fault"))
    assert len(tries) == 1 and missing == ({"small/local": "the plan is at fault"} if code == 2 else {})


def test_an_invalid_session_has_been_taken_again_already(tmp_path: Path, home: Path) -> None:
    missing, tries = attended(tmp_path, {**PASSED, "exit_code": 3, "headline": "invalid measurement"})
    assert missing == {} and len(tries) == 1


def test_what_goes_wrong_with_one_job_costs_no_other(tmp_path: Path, home: Path) -> None:
    Workspace(tmp_path, tmp_path / "home")
    plan, _ = read_plan(str(tmp_path / "plan.yaml"))
    board = read_target("local")
    jobs = {
        f"small/{name}": NightlyJob(
            name,
            board.model_copy(update={"workdir": str(tmp_path / name)}),
            plan,
            HostRun(UserFiles.of(plan, tmp_path)),
            None,
        )
        for name in ("sound", "full", "broken")
    }

    def measure(job: NightlyJob, hold: Hold, number: int) -> TargetResult:
        if job.name == "full":
            raise OSError("no space is left")
        return TargetResult.model_validate(failing(2, "its own fault") if job.name == "broken" else PASSED)

    night = Attendance(
        "night-1",
        f"sqlite:///{tmp_path / 'farm.db'}",
        Policy(),
        measure,
        lambda error: f"{type(error).__name__}: {error}",
    )
    assert night.run(jobs) == {
        "small/full": "OSError: no space is left",
        "small/broken": "its own fault",
    }


def test_a_database_that_refuses_costs_nothing_that_was_measured(tmp_path: Path, home: Path) -> None:
    database = tmp_path / "farm.db"
    Workspace(tmp_path, tmp_path / "home")
    plan, _ = read_plan(str(tmp_path / "plan.yaml"))
    host = HostRun(UserFiles.of(plan, tmp_path))
    jobs = {name: NightlyJob("local", read_target("local"), plan, host, None) for name in ("first", "second")}

    def measure(job: NightlyJob, hold: Hold, number: int) -> TargetResult:
        with writing(f"sqlite:///{database}") as connection:
            refusal = "BEGIN SELECT RAISE(ABORT, 'refused'); END"
            connection.execute(text(f"CREATE TRIGGER full BEFORE UPDATE ON jobs {refusal}"))
        return TargetResult.model_validate(PASSED)

    night = Attendance("night-1", f"sqlite:///{database}", Policy(), measure, lambda error: str(error))
    ((key, why),) = night.run(jobs).items()
    assert key == "second" and "refused" in why


@pytest.mark.parametrize("ends", [RuntimeError("a bug"), KeyboardInterrupt()])
def test_a_night_that_breaks_off_leaves_no_job_waiting(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, ends: BaseException
) -> None:
    url = f"sqlite:///{tmp_path / 'farm.db'}"
    database = open_farm(url)
    queue = Queue(Leases(database))
    queue.submit([Job("theirs", "board", owner="night-0")])

    def broken(farm: Farm, wanted: list[Job]) -> None:
        queue.submit(wanted)
        raise ends

    monkeypatch.setattr(local, "run", broken)
    night = Attendance("night-1", url, Policy(), lambda job, hold, number: NotImplemented)
    places = {"board": read_target("local")}
    if isinstance(ends, Exception):
        assert night.knock(places) == {"board": "a bug"}
    else:
        with pytest.raises(KeyboardInterrupt):
            night.knock(places)
    found = queue.outcomes(["theirs", "night-1/board"])
    assert [each.state for each in found] == ["queued", "failed"] and found[1].error
    database.close()


def test_a_target_that_is_silent_is_waited_for_and_its_power_switched(tmp_path: Path, home: Path) -> None:
    cycled = tmp_path / "cycled"
    # Its working folder can be made only once its power has been off.
    off = tmp_path / "off"
    off.write_text("in the way")
    board = read_target("local").model_copy(
        update={
            "workdir": str(off / "work"),
            "power": ("sh", "-c", f"rm '{off}' && echo once >> '{cycled}'"),
        }
    )
    policy = Policy(patience=1, probation_s=0, quarantines=3)
    night = Attendance(
        "night-1", f"sqlite:///{tmp_path / 'farm.db'}", policy, lambda job, hold, number: NotImplemented
    )
    assert night.knock({"board": board}) == {} and cycled.read_text() == "once\n"
    off.write_text("in the way")
    broken = board.model_copy(update={"power": ()})
    later = Attendance("night-2", night.url, policy, night.measure)
    assert "out of order" in later.knock({"board": broken})["board"]

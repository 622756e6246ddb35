"""What every engine of a farm promises, on SQLite and on a real PostgreSQL alike."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from pipeline.errors import UserError
from pipeline.farm.engines import Farm, local
from pipeline.farm.heart import Hold
from pipeline.farm.leases import DeviceTaken, Lease, Leases, open_farm
from pipeline.farm.policy import Policy
from pipeline.farm.queue import Job
from pipeline.farm.station import Station, station_of, switch
from pipeline.farm.tables import events
from targets.device import DeviceBusy
from targets.errors import TargetError
from targets.target import target_model
from tests.farm_for_tests import each_database, postgres_socket

ROOT = Path(__file__).parent.parent
socket = pytest.fixture(scope="module")(postgres_socket)
url = pytest.fixture(params=["sqlite", "postgresql"])(each_database)
AT_ONCE = Policy(retry_s=0, probation_s=0, quarantines=2)


def fit() -> None:
    """Nothing is wrong."""


def stations(count: int, check: Callable[[], None] = fit, **fields: Any) -> dict[str, Station]:
    return {f"board-{number}": Station(f"board-{number}", check, **fields) for number in range(count)}


def jobs(count: int, devices: int) -> list[Job]:
    return [Job(f"job-{number}", f"board-{number % devices}", {"number": number}) for number in range(count)]


def noted(url: str) -> list[tuple[str, str]]:
    database = open_farm(url)
    with database.writing() as connection:
        rows = connection.execute(select(events).order_by(events.c.id)).all()
    database.close()
    return [(row.what, row.detail) for row in rows if row.what not in ("acquired", "released")]


class Done:
    """What was done, in the order of its end; two on one device at a time are an error."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self._busy: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, job: Job, hold: Hold) -> dict[str, Any]:
        with self._lock:
            assert job.device not in self._busy
            self._busy.add(job.device)
        with self._lock:
            self._busy.remove(job.device)
            self.keys.append(job.key)
        return {"squared": job.payload["number"] ** 2, "token": hold.lease.token}


def test_every_job_is_done_once_and_its_result_comes_back(url: str) -> None:
    wanted, done = jobs(40, 4), Done()
    found = local.run(Farm(url, stations(4), done), wanted)
    assert [(each.key, each.state, each.result and each.result["squared"]) for each in found] == [
        (job.key, "done", job.payload["number"] ** 2) for job in wanted
    ]
    assert sorted(done.keys) == sorted(job.key for job in wanted)
    # All are given back, and once more nothing is left to do.
    database = open_farm(url)
    assert Leases(database).held() == []
    database.close()
    assert local.run(Farm(url, stations(4), done), wanted) == found and len(done.keys) == 40


def test_a_device_that_is_not_there_is_refused_at_once(url: str) -> None:
    wanted = [*jobs(4, 2), Job("x", "bord-7"), Job("y", "bord-8")]
    with pytest.raises(UserError) as told:
        local.run(Farm(url, stations(2), Done()), wanted)
    assert told.value.problems == tuple(
        f"bord-{number}: no device of this farm; known: board-0, board-1" for number in (7, 8)
    )
    # And nothing was queued.
    assert local.run(Farm(url, stations(2), Done()), []) == []
    done = Done()
    local.run(Farm(url, stations(2), done), wanted[:4])
    assert len(done.keys) == 4


def test_one_device_that_is_down_keeps_no_other_waiting_and_is_switched_off_and_on(url: str) -> None:
    cycled: list[str] = []

    def down() -> None:
        raise TargetError("board-1: nobody answers", "is it on?")

    all_of_them = {
        **stations(3),
        "board-1": Station("board-1", down, power_cycle=lambda hold: cycled.append("board-1")),
    }
    found = local.run(Farm(url, all_of_them, Done(), AT_ONCE), jobs(9, 3))
    states = {(each.device, each.state, each.error) for each in found}
    why = "board-1 is out of order: board-1: nobody answers; is it on?"
    assert states == {("board-0", "done", None), ("board-2", "done", None), ("board-1", "failed", why)}
    assert cycled == ["board-1"] * 3
    assert [what for what, _ in noted(url)] == ["aside", "power-cycled"] * 2 + ["given up", "power-cycled"]


def test_a_failed_job_is_tried_again_under_a_later_lease(url: str) -> None:
    tokens: list[int] = []

    def flaky(job: Job, hold: Hold) -> dict[str, Any]:
        tokens.append(hold.lease.token)
        if len(tokens) < 3:
            raise TargetError("the agent's answer broke off")
        return {}

    (found,) = local.run(Farm(url, stations(1), flaky, AT_ONCE), jobs(1, 1))
    assert (found.state, found.failures, tokens) == ("done", 2, [1, 2, 3])


def test_a_device_that_somebody_has_from_a_desk_is_not_at_fault(url: str) -> None:
    tries: list[int] = []

    def work(job: Job, hold: Hold) -> dict[str, Any]:
        tries.append(hold.lease.token)
        if len(tries) < 6:
            raise DeviceBusy("another job has the device", "locked")
        return {}

    (found,) = local.run(Farm(url, stations(1), work, Policy(busy_s=0)), jobs(1, 1))
    assert (found.state, found.failures, tries) == ("done", 0, [1, 2, 3, 4, 5, 6])
    assert noted(url) == []


def test_a_job_of_its_own_fault_fails_alone(url: str) -> None:
    def work(job: Job, hold: Hold) -> dict[str, Any]:
        if job.key == "job-1":
            raise UserError("the plan names no model")
        return {}

    found = local.run(Farm(url, stations(1), work), jobs(3, 1))
    assert [(each.state, each.error) for each in found] == [
        ("done", None),
        ("failed", "the plan names no model"),
        ("done", None),
    ]


def test_a_bug_is_raised_when_the_other_devices_are_through(url: str) -> None:
    done = Done()

    def work(job: Job, hold: Hold) -> dict[str, Any]:
        if job.device == "board-0":
            raise KeyError("oh")
        return done(job, hold)

    with pytest.raises(KeyError):
        local.run(Farm(url, stations(2), work), jobs(8, 2))
    assert len(done.keys) == 4


def test_two_controllers_share_the_devices(url: str) -> None:
    wanted, done = jobs(60, 3), Done()
    farm = Farm(url, stations(3), done)
    others = [threading.Thread(target=local.run, args=(farm, wanted)) for _ in range(2)]
    for other in others:
        other.start()
    found = local.run(farm, wanted)
    for other in others:
        other.join()
    assert {each.state for each in found} == {"done"}
    assert sorted(done.keys) == sorted(job.key for job in wanted)


CONTROLLER = """
import os, sys, time
from pathlib import Path
from pipeline.farm.engines import Farm, local
from pipeline.farm.queue import Job
from pipeline.farm.station import Station

url, folder, hang = sys.argv[1], Path(sys.argv[2]), sys.argv[3]

def work(job, hold):
    with (folder / job.key).open("a") as log:
        log.write(f"{hold.lease.token}\\n")
    if job.key == hang:
        print("hanging", flush=True)
        with hold.ending(lambda: os._exit(9)):
            time.sleep(3600)
    return {}

stations = {f"board-{number}": Station(f"board-{number}", lambda: None) for number in range(2)}
jobs = [Job(f"job-{number:02}", f"board-{number % 2}") for number in range(20)]
found = local.run(Farm(url, stations, work, ttl_s=2), jobs)
print(sorted({each.state for each in found}))
"""


def controller(url: str, folder: Path, hang: str = "") -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", CONTROLLER, url, str(folder), hang]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def test_a_controller_that_is_killed_costs_only_what_was_under_way(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    for hang in ("job-03", "job-12"):
        with controller(url, folder, hang) as killed:
            assert killed.stdout and killed.stdout.readline() == "hanging\n"
            killed.send_signal(signal.SIGKILL)
    with controller(url, folder) as last:
        said, told = last.communicate()
    assert (said, told, last.returncode) == ("['done']\n", "", 0)
    ran = {path.name: [int(token) for token in path.read_text().split()] for path in folder.iterdir()}
    assert len(ran) == 20 and all(tokens == sorted(set(tokens)) for tokens in ran.values())
    again = {key for key, tokens in ran.items() if len(tokens) > 1}
    # What hung, and what the other device was at when its controller was killed.
    assert {"job-03", "job-12"} <= again and len(again) <= 4


def test_an_interrupted_engine_gives_its_devices_back(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    script = CONTROLLER.replace("os._exit(9)", "ended.set()").replace(
        "time.sleep(3600)", "ended.wait(); raise TargetError('the connection was closed')"
    )
    head = "import threading; from targets.errors import TargetError; ended = threading.Event()\n"
    argv = [sys.executable, "-c", head + script, url, str(folder), "job-03"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout and process.stdout.readline() == b"hanging\n"
        process.send_signal(signal.SIGINT)
        _, told = process.communicate()
    assert b"KeyboardInterrupt" in told
    database = open_farm(url)
    leases = Leases(database)
    assert leases.held() == []
    leases.acquire("board-1", "ann")
    with pytest.raises(DeviceTaken):
        leases.acquire("board-1", "bob")
    database.close()


def local_target(tmp_path: Path, **fields: Any) -> Any:
    places = {"workdir": str(tmp_path / "work"), "install_path": str(tmp_path / "installed")}
    return target_model().model_validate({"transport": "local", "local": {}, **places, **fields})


def test_a_target_is_a_station(tmp_path: Path) -> None:
    log = tmp_path / "a name; $(with) 'much'"
    cut = [sys.executable, "-c", "import sys, pathlib; pathlib.Path(sys.argv[1]).touch()", str(log)]
    station = station_of("board", local_target(tmp_path, power=cut, rest_s=3))
    assert station.device.startswith("local: ") and station.rest_s == 3
    station.check()
    assert station.power_cycle is not None
    station.power_cycle(Hold(Lease("board", "farm", 1, "ann", 30)))
    assert log.exists()
    unfit = station_of("board", local_target(tmp_path, python="no-such-python"))
    assert unfit.power_cycle is None
    (tmp_path / "work").touch()
    with pytest.raises(TargetError, match=r"board: workdir: .*name another folder"):
        station_of("board", local_target(tmp_path)).check()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("no-such-command",), "board: power: no-such-command: No such file or directory; correct power"),
        (("sh", "-c", "echo the relay is stuck >&2; exit 4"), "sh ended with code 4: the relay is stuck"),
        (("sleep", "3600"), r"sleep did not end within 0\.1 s and was killed; raise power_deadline_s"),
    ],
)
def test_a_power_switch_that_fails_says_why(argv: tuple[str, ...], words: str) -> None:
    with pytest.raises(TargetError, match=words):
        switch("board", argv, 0.1 if argv[0] == "sleep" else 60, {})


def test_what_a_power_switch_said_is_in_the_events(url: str) -> None:
    def down() -> None:
        raise TargetError("nobody answers")

    def stuck(hold: Hold) -> None:
        raise TargetError("the relay is stuck")

    found = local.run(Farm(url, stations(1, down, power_cycle=stuck), Done(), AT_ONCE), jobs(1, 1))
    assert found[0].state == "failed"
    assert ("power-cycled", "the relay is stuck") in noted(url)


def test_outcomes_are_plain_data(url: str) -> None:
    found = local.run(Farm(url, stations(1), Done()), jobs(1, 1))
    assert json.loads(json.dumps(asdict(found[0])))["result"] == {"squared": 0, "token": 1}


def test_a_check_that_fails_because_the_lease_was_lost_is_held_against_nothing(url: str) -> None:
    """Another may have the device by then: it is not switched off and on."""
    checked: list[str] = []
    cycled: list[Hold] = []
    held: list[Hold] = []

    @contextlib.contextmanager
    def reserved(hold: Hold) -> Iterator[None]:
        held.append(hold)
        yield

    def check() -> None:
        checked.append("")
        if len(checked) == 1:
            held[0].lose()
            raise TargetError("board-0: the connection broke")

    policy = Policy(retry_s=0, probation_s=0, patience=1, quarantines=1)
    found = local.run(
        Farm(
            url,
            stations(1, check, power_cycle=cycled.append, reserved=reserved),
            lambda job, hold: {},
            policy,
        ),
        jobs(1, 1),
    )
    assert [(each.state, each.failures) for each in found] == [("done", 0)]
    assert not cycled and noted(url) == []


def test_a_device_that_nobody_can_attend_to_fails_its_own_jobs_alone(url: str) -> None:
    def check() -> None:
        raise UserError("no machine can attend to it")

    given = {"board-0": Station("board-0", check), "board-1": Station("board-1", fit)}
    found = local.run(Farm(url, given, lambda job, hold: {}, AT_ONCE), jobs(4, 2))
    assert [(each.state, each.error) for each in found] == [
        ("failed", "no machine can attend to it"),
        ("done", None),
    ] * 2

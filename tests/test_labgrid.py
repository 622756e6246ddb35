"""Devices whose places are lent by labgrid, by a real coordinator that others use, too."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.farm import labgrid
from pipeline.farm.coordinator import CoordinatorAway, Refused, Reservation, coordinator
from pipeline.farm.engines import Farm, local
from pipeline.farm.heart import Heart, Hold
from pipeline.farm.labgrid import Place, PlaceTaken
from pipeline.farm.leases import Lease, Leases, open_farm
from pipeline.farm.policy import Policy
from pipeline.farm.queue import Job, Outcome
from pipeline.farm.station import Station, station_of
from targets.errors import TargetError
from targets.target import target_model
from tests.labgrid_lab import Lab, lab
from tests.loopback_sshd import free_port

ROOT = Path(__file__).parent.parent
AT_ONCE = Policy(retry_s=0, busy_s=0, probation_s=0, patience=1, quarantines=1)
JOBS = [Job(f"job-{number}", "board") for number in range(3)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("lab"), "shelf-1", "shelf-2") as found:
        yield found


@pytest.fixture
def place(shared: Lab) -> Iterator[Place]:
    yield Place("shelf-1", shared.address)
    # Whatever went wrong, the next test finds it free.
    with coordinator(shared.address) as asked:
        for each in asked.reservations():
            asked.cancel(each.token)
        if by := asked.places()["shelf-1"]:
            asked.release("shelf-1", by)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'farm.db'}"


def fit() -> None:
    """Nothing is wrong."""


def attended(url: str, place: Place, work: Any, policy: Policy = AT_ONCE, **fields: Any) -> list[Outcome]:
    fields = {"check": fit, "reserved": place.held, **fields}
    return local.run(Farm(url, {"board": Station("board", **fields)}, work, policy, ttl_s=5), JOBS)


def reservations(lab: Lab) -> list[Reservation]:
    with coordinator(lab.address) as asked:
        return asked.reservations()


def acquired(lab: Lab) -> str:
    with coordinator(lab.address) as asked:
        return asked.places()["shelf-1"]


@contextlib.contextmanager
def lease(url: str, holder: str, ttl_s: float = 30) -> Iterator[tuple[Heart, Hold]]:
    database = open_farm(url)
    leases = Leases(database)
    heart = Heart(leases)
    taken = leases.acquire("board", holder, ttl_s)
    try:
        with heart.keeping(taken) as hold:
            yield heart, hold
    finally:
        leases.release(taken)
        heart.close()
        database.close()


def test_nobody_else_gets_a_place_while_a_job_runs_there_and_then_anybody_does(
    shared: Lab, place: Place, url: str
) -> None:
    refused, owners = [], []

    def work(job: Job, hold: Hold) -> dict[str, Any]:
        refused.append(shared.ask("-p", "shelf-1", "acquire").stderr)
        owners.append([(each.owner, each.state) for each in reservations(shared)])
        return {}

    found = attended(url, place, work)
    assert [each.state for each in found] == ["done"] * 3
    assert refused == ["Server error: Error: Place shelf-1 was not reserved for desk/ann\n"] * 3
    assert owners[0] == owners[2] and owners[0][0][1] == "allocated"
    assert reservations(shared) == []
    shared.told("-p", "shelf-1", "acquire")


def test_a_farm_waits_its_turn_among_people(shared: Lab, place: Place, url: str) -> None:
    shared.told("-p", "shelf-1", "acquire", user="ann")
    shared.told("reserve", "name=shelf-1", user="bob")
    (bob,) = reservations(shared)
    told: list[str] = []

    @contextlib.contextmanager
    def reserved(hold: Hold) -> Iterator[None]:
        try:
            with place.held(hold):
                yield
        except PlaceTaken as error:
            told.append(str(error))
            # It is in the queue by now, behind him; then she goes, and then he.
            if len(told) == 2:
                shared.told("-p", "shelf-1", "release", user="ann")
            if len(told) == 4:
                shared.told("cancel-reservation", bob.token, user="bob")
            raise

    found = attended(url, place, lambda job, hold: {}, Policy(busy_s=0.5, losses=1000), reserved=reserved)
    assert [(each.state, each.failures) for each in found] == [("done", 0)] * 3
    # Then it is nobody's, until labgrid looks again.
    assert told[:4] == [
        f"labgrid: desk/{who} has the place shelf-1; the farm waits its turn there"
        for who in ("ann", "ann", "bob", "bob")
    ]


def test_a_place_that_is_never_given_back_is_not_waited_for_for_ever(
    shared: Lab, place: Place, url: str
) -> None:
    shared.told("-p", "shelf-1", "acquire")
    policy = Policy(busy_s=0, losses=2)
    found = attended(url, place, lambda job, hold: {}, policy)
    error = "labgrid: desk/ann has the place shelf-1; the farm waits its turn there"
    assert [(each.state, each.error, each.failures) for each in found] == [("failed", error, 0)] * 3


def test_two_farms_are_never_at_one_place_at_once(shared: Lab, place: Place, tmp_path: Path) -> None:
    busy, done = threading.Lock(), []

    def work(job: Job, hold: Hold) -> dict[str, Any]:
        assert busy.acquire(blocking=False)
        done.append((hold.lease.farm, job.key))
        reservations(shared)
        busy.release()
        return {}

    policy = Policy(busy_s=0.2, losses=1000)
    urls = [f"sqlite:///{tmp_path / name}.db" for name in ("one", "two")]
    farms = [threading.Thread(target=attended, args=(url, place, work, policy)) for url in urls]
    for farm in farms:
        farm.start()
    for farm in farms:
        farm.join()
    assert len(set(done)) == len(done) == 6 and len({farm for farm, _ in done}) == 2


CONTROLLER = """
import sys, time
from pipeline.farm.engines import Farm, local
from pipeline.farm.labgrid import Place
from pipeline.farm.queue import Job
from pipeline.farm.station import Station

url, address = sys.argv[1:]

def work(job, hold):
    print("hanging", flush=True)
    time.sleep(3600)

station = Station("board", lambda: None, reserved=Place("shelf-1", address).held)
local.run(Farm(url, {"board": station}, work, ttl_s=1), [Job("job-0", "board")])
"""


def killed_controller(url: str, lab: Lab) -> Reservation:
    """The reservation of one that was killed while it had the place."""
    argv = [sys.executable, "-c", CONTROLLER, url, lab.address]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout and process.stdout.readline() == "hanging\n"
        (left,) = reservations(lab)
        process.send_signal(signal.SIGKILL)
    return left


def test_the_next_controller_goes_on_with_the_place_of_one_that_was_killed(
    shared: Lab, place: Place, url: str
) -> None:
    left = killed_controller(url, shared)
    assert left.state == "allocated"
    seen = []

    def work(job: Job, hold: Hold) -> dict[str, Any]:
        seen.extend(reservations(shared))
        return {}

    found = attended(url, place, work, Policy(losses=2))
    assert {each.state for each in found} == {"done"} and set(seen) == {left}


def test_a_place_whose_farm_is_gone_is_given_back_by_labgrid_itself(
    shared: Lab, place: Place, url: str
) -> None:
    left = killed_controller(url, shared)
    # Until it is his; labgrid looks every 15 seconds for what was not asked for for a minute.
    shared.told("reserve", "--wait", "name=shelf-1", user="bob")
    states = {each.token: each.state for each in reservations(shared)}
    assert states.get(left.token, "expired") == "expired"
    shared.told("-p", "shelf-1", "acquire", user="bob")


@pytest.mark.parametrize("how", ["cancelled", "restarted", "out of reach"])
def test_what_ran_where_the_place_was_taken_away_is_done_again(
    tmp_path: Path, url: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens: list[int] = []
    if how == "out of reach":
        monkeypatch.setattr(labgrid, "LEAVE_AFTER_S", 0)
    with lab(tmp_path, "shelf-1") as own:

        def back() -> None:
            own.start()
            own.told("-p", "shelf-1", "create")

        def work(job: Job, hold: Hold) -> dict[str, Any]:
            tokens.append(hold.lease.token)
            if len(tokens) == 1:
                closed = threading.Event()
                with hold.ending(closed.set):
                    if how == "cancelled":
                        with coordinator(own.address) as asked:
                            asked.cancel(asked.reservations()[0].token)
                    else:
                        own.stop()
                    if how == "restarted":
                        back()
                    assert closed.wait(60)
                if how == "out of reach":
                    back()
                raise TargetError("the connection was closed")
            return {}

        found = attended(url, Place("shelf-1", own.address), work)
        assert [(each.state, each.failures) for each in found] == [("done", 0)] * 3
        assert tokens == [1, 2, 2, 2] and reservations(own) == []


def test_an_interrupted_run_gives_the_place_back_and_one_that_was_followed_does_not(
    shared: Lab, place: Place, url: str
) -> None:
    with lease(url, "first") as (heart, hold):
        with place.held(hold):
            heart.lose_all()
        assert reservations(shared) == []
    with lease(url, "second", ttl_s=0) as (_, hold), place.held(hold):
        lost = threading.Event()
        with lease(url, "third") as (_, next_hold), hold.ending(lost.set):
            assert lost.wait(60)
    (left,) = reservations(shared)
    assert left.owner == place.owner(next_hold.lease)


def test_a_power_command_acts_as_the_farm_and_leaves_no_place_acquired(
    shared: Lab, place: Place, url: str, tmp_path: Path
) -> None:
    (tmp_path / "work").touch()
    out = tmp_path / "acquired"
    client = shared.programs / "labgrid-client"
    target = target_model().model_validate(
        {
            "transport": "local",
            "local": {},
            "workdir": str(tmp_path / "work"),
            "install_path": str(tmp_path / "installed"),
            "labgrid": {"place": "shelf-1", "coordinator": shared.address},
            "power": ("sh", "-c", f"{client} acquire && {client} who > {out}"),
        }
    )
    station = station_of("board", target)
    (found,) = local.run(
        Farm(url, {"board": station}, lambda job, hold: {}, AT_ONCE), [Job("job-0", station.device)]
    )
    assert found.state == "failed" and "out of order" in (found.error or "")
    assert "edgepipe" in out.read_text() and "shelf-1" in out.read_text()
    assert acquired(shared) == "" and reservations(shared) == []


def ask_for(place: Place) -> None:
    with place.held(Hold(Lease("board", "farm", 1, "ann", 30))):
        pass


def test_a_place_that_there_is_not_fails_the_jobs_at_once(shared: Lab, url: str) -> None:
    found = attended(url, Place("shelf-3", shared.address), lambda job, hold: {}, Policy())
    error = (
        f"labgrid: {shared.address} has no place 'shelf-3'; known: shelf-1, shelf-2; correct labgrid.place in the "
        "target's file"
    )
    assert [(each.state, each.error) for each in found] == [("failed", error)] * 3


def test_a_coordinator_that_is_away_is_no_fault_of_the_device(url: str) -> None:
    address = f"127.0.0.1:{free_port()}"
    cycled: list[Hold] = []
    found = attended(
        url,
        Place("shelf-1", address),
        lambda job, hold: {},
        Policy(busy_s=0, losses=2),
        power_cycle=cycled.append,
    )
    assert {(each.state, each.failures) for each in found} == {("failed", 0)} and cycled == []
    assert f"labgrid's coordinator {address} did not answer: UNAVAILABLE" in (found[0].error or "")
    assert "labgrid.coordinator in the target's file" in (found[0].error or "")


def test_what_is_no_coordinator_says_so() -> None:
    import grpc
    from grpc_reflection.v1alpha import reflection

    other = grpc.server(ThreadPoolExecutor(1))
    port = other.add_insecure_port("127.0.0.1:0")
    other.start()
    with pytest.raises(CoordinatorAway, match="UNIMPLEMENTED"):
        ask_for(Place("shelf-1", f"127.0.0.1:{port}"))
    other.stop(None)
    other = grpc.server(ThreadPoolExecutor(1))
    port = other.add_insecure_port("127.0.0.1:0")
    reflection.enable_server_reflection([reflection.SERVICE_NAME], other)
    other.start()
    with pytest.raises(Refused, match=f"127.0.0.1:{port} is no labgrid coordinator; is it running"):
        ask_for(Place("shelf-1", f"127.0.0.1:{port}"))
    other.stop(None)


def test_without_its_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc_reflection", None)
    with pytest.raises(UserError, match=r"pip install 'edgepipe\[labgrid\]'"):
        ask_for(Place("shelf-1"))


def test_where_the_coordinator_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LG_COORDINATOR", raising=False)
    assert Place("a").address == "127.0.0.1:20408"
    monkeypatch.setenv("LG_COORDINATOR", "lab.local")
    assert Place("a").address == "lab.local:20408"
    assert Place("a", "[::1]:7").address == "[::1]:7"


@pytest.mark.parametrize(
    "said", [{"place": "a b"}, {"place": "a/b"}, {"coordinator": "lab"}, {"place": "a", "port": 1}]
)
def test_a_target_s_file_that_names_no_place_is_refused(said: dict[str, Any]) -> None:
    base = {"transport": "local", "local": {}, "workdir": "w", "install_path": "i"}
    target_model().model_validate({**base, "labgrid": {"place": "a"}})
    with pytest.raises(ValueError, match="labgrid"):
        target_model().model_validate({**base, "labgrid": said})

"""Leases, on SQLite and on a real PostgreSQL alike."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, delete, select, update

from pipeline.errors import UserError
from pipeline.farm.clock import database_clock
from pipeline.farm.heart import Heart
from pipeline.farm.leases import DeviceTaken, Lease, LeaseLost, Leases, ensure, locked, open_farm
from pipeline.farm.tables import events, leases
from pipeline.history import database as history_database
from pipeline.history.database import Database, DatabaseAway, reading
from tests.farm_for_tests import Clock, each_database, postgres_socket
from tests.postgres import new_database

ROOT = Path(__file__).parent.parent

socket = pytest.fixture(scope="module")(postgres_socket)
url = pytest.fixture(params=["sqlite", "postgresql"])(each_database)


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = open_farm(url)
    yield opened
    opened.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def farm(database: Database, clock: Clock) -> Leases:
    return Leases(database, clock)


def history(farm: Leases) -> list[tuple[str, int, str]]:
    with farm.database.writing() as connection:
        rows = connection.execute(select(events).order_by(events.c.id)).all()
    return [(row.what, row.token, row.holder) for row in rows]


def test_a_device_is_lent_to_one_at_a_time(farm: Leases, clock: Clock) -> None:
    first = farm.acquire("board", "ann", ttl_s=30)
    with pytest.raises(DeviceTaken, match=r"board: ann has it; its lease ends in 20 s"):
        clock.now += 10
        farm.acquire("board", "bob")
    assert farm.acquire("other", "bob").token == 1
    assert farm.release(first) and not farm.release(first)
    assert farm.acquire("board", "bob").token == 2
    assert history(farm) == [
        ("acquired", 1, "ann"),
        ("acquired", 1, "bob"),
        ("released", 1, "ann"),
        ("acquired", 2, "bob"),
    ]


def test_a_lease_ends_by_itself_and_a_heartbeat_prolongs_it(farm: Leases, clock: Clock) -> None:
    lease = farm.acquire("board", "ann", ttl_s=30)
    clock.now += 29
    assert farm.renew([lease]) == []
    clock.now += 29
    assert [each["device"] for each in farm.held()] == ["board"]
    clock.now += 1
    assert farm.held() == []
    after = farm.acquire("board", "bob", ttl_s=30)
    assert after.token == 2 and farm.renew([lease]) == [lease] and not farm.release(lease)
    assert history(farm)[1:] == [("expired", 1, "ann"), ("acquired", 2, "bob")]
    with farm.database.writing() as connection:
        ensure(connection, after)
        with pytest.raises(LeaseLost, match="token 1 has ended; the last one has 2"):
            ensure(connection, lease)


def test_one_that_ran_out_but_was_not_taken_goes_on(farm: Leases, clock: Clock) -> None:
    lease = farm.acquire("board", "ann", ttl_s=30)
    clock.now += 100
    assert farm.renew([lease]) == []
    with pytest.raises(DeviceTaken):
        farm.acquire("board", "bob")


def test_a_clock_that_was_started_anew_keeps_no_device(farm: Leases, clock: Clock) -> None:
    lost = farm.acquire("board", "ann", ttl_s=30)
    clock.now = 5
    assert farm.held() == []
    assert farm.acquire("board", "bob", ttl_s=30).token == 2
    assert farm.renew([lost]) == [lost]


def test_a_hosts_clock_has_no_say(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    farm = Leases(database)
    farm.acquire("board", "ann", ttl_s=3600)
    for jump in (-1e9, 1e9):
        monkeypatch.setattr(time, "time", lambda jump=jump: jump)
        with pytest.raises(DeviceTaken):
            farm.acquire("board", "bob")


def test_the_databases_time_only_goes_on(database: Database) -> None:
    with database.writing() as connection:
        seen = [database_clock(connection) for _ in range(100)]
    assert seen == sorted(seen)


def test_of_many_that_ask_at_once_one_gets_it(farm: Leases) -> None:
    def ask(number: int) -> Lease | None:
        try:
            return farm.acquire("board", str(number))
        except DeviceTaken:
            return None

    with ThreadPoolExecutor(8) as pool:
        assert len([found for found in pool.map(ask, range(40)) if found]) == 1


RACE = """
import sys
from pipeline.farm.leases import DeviceTaken, Leases, open_farm
database = open_farm(sys.argv[1])
farm, tokens = Leases(database), []
while len(tokens) < 15:
    try:
        lease = farm.acquire("board", sys.argv[2])
    except DeviceTaken:
        continue
    tokens.append(lease.token)
    assert farm.release(lease)
print(tokens)
"""


def test_controllers_in_processes_of_their_own_never_get_one_token_twice(url: str) -> None:
    racing = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, url, str(number)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for number in range(3)
    ]
    found: list[list[int]] = [json.loads(process.communicate()[0]) for process in racing]
    assert all(tokens == sorted(tokens) for tokens in found)
    assert sorted(token for tokens in found for token in tokens) == list(range(1, 46))


HELD = """
import sys, time
from pipeline.farm.leases import Leases, open_farm
Leases(open_farm(sys.argv[1])).acquire("board", "ann", ttl_s=1)
print(flush=True)
time.sleep(3600)
"""


def test_a_killed_controllers_device_comes_back(url: str, database: Database) -> None:
    farm = Leases(database)
    with subprocess.Popen([sys.executable, "-c", HELD, url], stdout=subprocess.PIPE, cwd=ROOT) as holder:
        assert holder.stdout and holder.stdout.readline()
        holder.send_signal(signal.SIGKILL)
    while farm.held():
        pass
    assert farm.acquire("board", "bob").token == 2


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["acquire", "renew", "release", "wait"]), st.integers(0, 2)), max_size=25
    )
)
def test_a_model_of_leases_agrees(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    clock = Clock()
    database = open_farm(f"sqlite:///{tmp_path_factory.mktemp('farm') / 'history.db'}")
    farm, last, holder, ends = Leases(database, clock), 0, None, 0.0
    known: dict[int, Lease] = {}
    for what, who in steps:
        if what == "wait":
            clock.now += 8 * who
        elif what == "acquire" and holder is not None and clock.now < ends:
            with pytest.raises(DeviceTaken):
                farm.acquire("board", str(who), ttl_s=10)
        elif what == "acquire":
            known[who] = farm.acquire("board", str(who), ttl_s=10)
            last, holder, ends = last + 1, who, clock.now + 10
            assert known[who].token == last
        elif who in known:
            ours = holder == who and known[who].token == last
            if what == "renew":
                assert (farm.renew([known[who]]) == []) is ours
                ends = clock.now + 10 if ours else ends
            else:
                assert farm.release(known[who]) is ours
                holder = None if ours else holder
    database.close()


def test_what_happened_is_never_changed(farm: Leases) -> None:
    farm.acquire("board", "ann")
    for statement in (update(events).values(what="nothing"), delete(events)):
        with pytest.raises(UserError, match="append-only"), farm.database.writing() as connection:
            connection.execute(statement)


def test_farms_have_names_of_their_own_that_stay(url: str, database: Database, tmp_path: Path) -> None:
    again, other = open_farm(url), open_farm(f"sqlite:///{tmp_path / 'other.db'}")
    assert Leases(again).farm == Leases(database).farm != Leases(other).farm
    again.close()
    other.close()


def test_the_history_and_the_farm_share_a_database(url: str, database: Database) -> None:
    Leases(database).acquire("board", "ann")
    with reading(url) as connection:
        assert len(connection.execute(select(leases)).all()) == 1


def test_a_heart_keeps_what_it_was_given_and_tells_of_what_is_lost(database: Database) -> None:
    farm, told = Leases(database), threading.Event()
    heart = Heart(farm)
    lease = farm.acquire("board", "ann", ttl_s=0.4)
    with heart.keeping(lease) as hold, hold.ending(told.set):
        first = _until(database)
        while _until(database) == first:
            assert not hold.lost.is_set()
        # Another has got it, say while this host was asleep.
        with database.writing() as connection:
            connection.execute(update(leases).values(token=2, holder="bob"))
        assert hold.lost.wait(60) and told.wait(60)
    heart.close()


def test_a_heart_that_reaches_no_database_gives_up_in_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    farm = Leases(database)
    lease = farm.acquire("board", "ann", ttl_s=0.2)

    def away(held: object) -> list[Lease]:
        raise DatabaseAway("it does not answer")

    monkeypatch.setattr(farm, "renew", away)
    heart = Heart(farm)
    with heart.keeping(lease) as hold:
        assert hold.lost.wait(60)
    heart.close()


def test_an_interruption_ends_all_work(farm: Leases) -> None:
    heart, ended = Heart(farm), threading.Event()
    with heart.keeping(farm.acquire("board", "ann")) as hold, hold.ending(ended.set):
        heart.lose_all()
        assert ended.wait(60)
        late = threading.Event()
        with hold.ending(late.set):
            assert late.is_set()
    heart.close()


def _until(database: Database) -> float:
    with database.writing() as connection:
        return float(connection.execute(select(leases.c.held_until)).scalar_one())


def test_a_database_that_ends_is_told_and_found_again(socket: Path) -> None:
    import psycopg

    url = new_database(socket, "ended")
    database = open_farm(url)
    farm = Leases(database)
    with psycopg.connect(url, autocommit=True) as admin:
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        with pytest.raises(DatabaseAway, match="terminat"), database.writing() as connection:
            admin.execute(ended)
            _use(connection)
    # The next one is made anew.
    assert farm.acquire("board", "ann").token == 1
    database.close()


def _use(connection: Connection) -> None:
    connection.execute(select(leases)).all()


def test_who_vanishes_within_a_transaction_stops_no_other(
    socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = new_database(socket, "vanished")
    other = open_farm(url)
    monkeypatch.setattr(history_database, "FARM_PATIENCE_S", 1)
    gone = open_farm(url)
    with pytest.raises(DatabaseAway), gone.writing() as connection:
        locked(connection, "board")
        # It waits until the server has ended the transaction of the one that says nothing more.
        assert Leases(other).acquire("board", "ann").token == 1
        locked(connection, "board")
    # Where that one does not let go, the other is told, and may ask again.
    with other.writing() as connection:
        locked(connection, "board")
        with pytest.raises(DatabaseAway, match="lock timeout"):
            Leases(gone).acquire("board", "bob")
    with pytest.raises(DeviceTaken):
        Leases(gone).acquire("board", "bob")
    gone.close()
    other.close()

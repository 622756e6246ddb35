"""The queue of a farm, on SQLite and on a real PostgreSQL alike."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from pipeline.farm.leases import LeaseLost, Leases, open_farm
from pipeline.farm.policy import Policy
from pipeline.farm.queue import Job, Queue
from pipeline.farm.tables import events, jobs
from tests.farm_for_tests import Clock, each_database, postgres_socket

socket = pytest.fixture(scope="module")(postgres_socket)
url = pytest.fixture(params=["sqlite", "postgresql"])(each_database)
POLICY = Policy(tries=3, retry_s=10, patience=2, probation_s=100, longest_s=1000, quarantines=2, losses=3)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(url: str, clock: Clock) -> Iterator[Queue]:
    database = open_farm(url)
    yield Queue(Leases(database, clock), POLICY)
    database.close()


def noted(queue: Queue, device: str) -> list[str]:
    with queue.leases.database.writing() as connection:
        wanted = select(events.c.what).where(events.c.device == device).order_by(events.c.id)
        return [row.what for row in connection.execute(wanted)]


def state(queue: Queue, key: str) -> tuple[str, str | None]:
    (found,) = queue.outcomes([key])
    return found.state, found.error


def test_a_job_is_queued_once_and_its_result_is_kept(queue: Queue) -> None:
    job = Job("a", "board", {"plan": "digits", "ä": [1]}, "night", 3)
    assert queue.submit([job, job]) == 1 and queue.submit([job, Job("b", "other")]) == 1
    lease = queue.leases.acquire("board", "ann")
    assert queue.take(lease) == job and queue.take(lease) is None
    queue.done(lease, job, {"p50": 1.5, "ö": None})
    (found,) = queue.outcomes(["a", "unheard of"])
    assert (found.state, found.result, found.failures) == ("done", {"p50": 1.5, "ö": None}, 0)
    # Asked for again, it is done already.
    assert queue.submit([job]) == 0 and queue.take(lease) is None
    assert queue.wait_s("board") is None and queue.wait_s("other") == 0


def test_the_higher_priority_comes_first_and_owners_take_turns(queue: Queue) -> None:
    queue.submit([Job(f"a{number}", "board", owner="a") for number in range(6)])
    lease = queue.leases.acquire("board", "ann")

    def take(count: int) -> list[str]:
        taken = []
        for _ in range(count):
            job = queue.take(lease)
            assert job is not None
            queue.done(lease, job, {})
            taken.append(job.key)
        return taken

    assert take(2) == ["a0", "a1"]
    # Who comes late is neither last nor first for all of them.
    queue.submit([Job(f"b{number}", "board", owner="b") for number in range(3)])
    queue.submit([Job("urgent", "board", owner="b", priority=1)])
    assert take(1) == ["urgent"]
    assert take(7) == ["a2", "b0", "a3", "b1", "a4", "b2", "a5"]


def test_many_jobs_are_queued_at_once(queue: Queue) -> None:
    assert queue.submit(Job(f"{number}", f"board-{number % 7}") for number in range(1234)) == 1234
    assert queue.submit(Job(f"{number}", "board-1") for number in range(1200, 1300)) == 66
    assert len(queue.outcomes([str(number) for number in range(1300)])) == 1300


def test_a_lost_lease_changes_nothing_any_more_and_its_job_is_taken_up(queue: Queue, clock: Clock) -> None:
    job = Job("a", "board")
    queue.submit([job])
    lost = queue.leases.acquire("board", "ann", ttl_s=30)
    assert queue.take(lost) == job
    clock.now += 31
    lease = queue.leases.acquire("board", "bob", ttl_s=30)
    for late in (
        lambda: queue.done(lost, job, {"wrong": 1}),
        lambda: queue.failed(lost, job, "late"),
        lambda: queue.device_failed(lost, "late", job),
        lambda: queue.take(lost),
    ):
        with pytest.raises(LeaseLost, match="token 1 has ended; the last one has 2"):
            late()
    assert queue.take(lease) == job
    queue.done(lease, job, {"right": 1})
    assert queue.outcomes(["a"])[0].result == {"right": 1}


def test_what_runs_under_no_lease_of_ours_cannot_be_ended(queue: Queue) -> None:
    job = Job("a", "board")
    queue.submit([job])
    lease = queue.leases.acquire("board", "ann")
    with pytest.raises(LeaseLost, match="job a does not run under the lease with token 1"):
        queue.done(lease, job, {})
    assert state(queue, "a") == ("queued", None)


def test_an_end_that_is_said_twice_counts_once(queue: Queue) -> None:
    job = Job("a", "board")
    queue.submit([job])
    lease = queue.leases.acquire("board", "ann")
    queue.take(lease)
    queue.done(lease, job, {"first": 1})
    queue.done(lease, job, {"second": 1})
    assert queue.outcomes(["a"])[0].result == {"first": 1}
    with pytest.raises(LeaseLost):
        queue.failed(lease, job, "no")


def test_a_job_that_takes_its_controller_down_again_and_again_is_given_up(queue: Queue) -> None:
    queue.submit([Job("a", "board")])
    for _ in range(3):
        lease = queue.leases.acquire("board", "ann")
        assert queue.take(lease) is not None
        queue.leases.release(lease)
    lease = queue.leases.acquire("board", "ann")
    assert queue.take(lease) is None
    assert state(queue, "a") == (
        "failed",
        "given up: 3 times the controller that ran it was gone before it ended",
    )


def test_a_job_is_tried_again_later_and_later_and_fails_in_the_end(queue: Queue, clock: Clock) -> None:
    job, sound = Job("a", "board"), Job("sound", "board", priority=-1)
    queue.submit([job, sound])
    lease = queue.leases.acquire("board", "ann", ttl_s=1e6)
    for wait_s in (10, 20):
        assert queue.take(lease) == job
        assert queue.device_failed(lease, "it crashed", job) == ""
        # Meanwhile another is done, which shows that the device is well.
        if wait_s == 10:
            assert queue.take(lease) == sound
            queue.done(lease, sound, {})
        assert queue.take(lease) is None and queue.wait_s("board") == wait_s
        clock.now += wait_s
        queue.submit([Job("more", "board", priority=5)])
        if wait_s == 10:
            more = queue.take(lease)
            assert more is not None and more.key == "more"
            queue.done(lease, more, {})
    assert queue.take(lease) == job
    queue.device_failed(lease, "it crashed", job)
    assert state(queue, "a") == ("failed", "it crashed")
    assert queue.outcomes(["a"])[0].failures == 3


def test_a_job_waits_while_somebody_at_a_desk_has_the_device(queue: Queue, clock: Clock) -> None:
    job = Job("a", "board")
    queue.submit([job])
    lease = queue.leases.acquire("board", "ann", ttl_s=1e6)
    for _ in range(2):
        assert queue.take(lease) == job
        queue.postponed(lease, job, "another job has the device")
        assert queue.take(lease) is None and queue.wait_s("board") == POLICY.busy_s
        clock.now += POLICY.busy_s
    assert queue.outcomes(["a"])[0].failures == 0
    # Not for ever.
    assert queue.take(lease) == job
    queue.postponed(lease, job, "another job has the device")
    assert state(queue, "a") == ("failed", "another job has the device")
    assert noted(queue, "board") == ["acquired"]


def test_a_job_of_its_own_fault_is_not_tried_again(queue: Queue) -> None:
    job = Job("a", "board")
    queue.submit([job])
    lease = queue.leases.acquire("board", "ann")
    queue.take(lease)
    queue.failed(lease, job, "the plan has no such model")
    assert state(queue, "a") == ("failed", "the plan has no such model")
    assert queue.wait_s("board") is None


def test_a_device_that_fails_is_put_aside_tried_again_and_restored(queue: Queue, clock: Clock) -> None:
    queue.submit([Job("a", "board"), Job("b", "board")])
    lease = queue.leases.acquire("board", "ann", ttl_s=1e6)
    assert [queue.device_failed(lease, "unfit") for _ in range(2)] == ["", "aside"]
    assert queue.take(lease) is None and queue.wait_s("board") == 100
    clock.now += 100
    # On probation one failure is enough, and the wait is longer.
    job = queue.take(lease)
    assert job is not None
    assert queue.device_failed(lease, "unfit still", job) == "aside" and queue.wait_s("board") == 200
    clock.now += 200
    job = queue.take(lease)
    assert job is not None
    queue.done(lease, job, {})
    assert queue.device_failed(lease, "unfit") == ""
    assert noted(queue, "board") == ["acquired", "aside", "aside", "restored"]


def test_a_device_that_stays_out_of_order_is_waited_for_no_longer(queue: Queue, clock: Clock) -> None:
    queue.submit([Job("a", "board"), Job("b", "board"), Job("c", "other")])
    lease = queue.leases.acquire("board", "ann", ttl_s=1e6)
    became = []
    for _ in range(4):
        became.append(queue.device_failed(lease, "nobody answers"))
        clock.now += queue.wait_s("board") or 0
    assert became == ["", "aside", "aside", "given up"]
    assert state(queue, "a") == state(queue, "b") == ("failed", "board is out of order: nobody answers")
    assert queue.wait_s("board") is None and state(queue, "c") == ("queued", None)
    # The next night is as patient.
    queue.submit([Job("d", "board")])
    assert queue.wait_s("board") == 0
    again = [queue.device_failed(lease, "nobody answers") for _ in range(2)]
    assert again == ["", "aside"] and state(queue, "d") == ("queued", None)


def test_who_gives_a_device_up_gives_up_no_job_of_another(queue: Queue, clock: Clock) -> None:
    mine = Queue(queue.leases, Policy(patience=1, quarantines=0), only="me")
    queue.submit([Job("a", "board", owner="me"), Job("b", "board", owner="them")])
    lease = queue.leases.acquire("board", "ann")
    assert mine.device_failed(lease, "nobody answers") == "given up"
    assert state(queue, "a")[0] == "failed" and mine.wait_s("board") is None
    assert state(queue, "b") == ("queued", None) and queue.wait_s("board") == 0


def test_what_its_owner_withdraws_nobody_takes(queue: Queue, clock: Clock) -> None:
    mine = Queue(queue.leases, only="me")
    queue.submit([Job(key, "board", owner="me") for key in "abc"] + [Job("d", "board", owner="them")])
    lease = queue.leases.acquire("board", "ann", ttl_s=1e6)
    mine.done(lease, mine.take(lease), {})
    running = mine.take(lease)
    mine.withdraw("interrupted")
    assert [state(queue, key) for key in "abcd"] == [
        ("done", None),
        ("failed", "interrupted"),
        ("failed", "interrupted"),
        ("queued", None),
    ]
    with pytest.raises(LeaseLost):
        mine.done(lease, running, {})
    queue.leases.release(lease)
    assert queue.take(queue.leases.acquire("board", "bob")) == Job("d", "board", owner="them")


def test_what_a_device_says_is_kept_whatever_bytes_are_in_it(queue: Queue, clock: Clock) -> None:
    wanted = [Job(key, "board", priority=-number) for number, key in enumerate("abc")]
    queue.submit(wanted)
    lease = queue.leases.acquire("board", "ann", ttl_s=1e6)
    said, kept = "cut\x00 off \udc80", "cut\ufffd off ?"
    for job, end in zip(wanted, (queue.failed, queue.postponed), strict=False):
        assert queue.take(lease) == job
        end(lease, job, said)
        assert state(queue, job.key)[1] == kept
    assert queue.take(lease) == wanted[2]
    queue.device_failed(lease, said, wanted[2])
    queue.device_failed(lease, said)
    queue.note(lease, "power-cycled", said)
    assert state(queue, "c") == ("queued", kept)
    with queue.leases.database.writing() as connection:
        details = (
            connection.execute(select(events.c.detail).where(events.c.what != "acquired")).scalars().all()
        )
    assert details == [kept, kept]


def test_a_wait_does_not_outlive_the_clock_it_was_taken_from(queue: Queue, clock: Clock) -> None:
    queue.submit([Job("a", "board")])
    lease = queue.leases.acquire("board", "ann")
    job = queue.take(lease)
    queue.device_failed(lease, "it crashed", job)
    queue.device_failed(lease, "it crashed")
    assert queue.wait_s("board") == 100
    clock.now = 1
    assert queue.wait_s("board") == 0
    assert queue.take(queue.leases.acquire("board", "bob")) == job


def test_controllers_at_once_do_every_job_exactly_once(url: str) -> None:
    """Four of them want three devices, and lose one every now and then."""
    database = open_farm(url)
    Queue(Leases(database)).submit(Job(f"{number}", f"board-{number % 3}") for number in range(90))
    database.close()

    def control(number: int) -> int:
        with contextlib.closing(open_farm(url)) as own:
            queue, counted, turn = Queue(Leases(own), Policy(losses=1000)), 0, number
            while any(queue.wait_s(f"board-{device}") is not None for device in range(3)):
                turn += 1
                with contextlib.suppress(LeaseLost):
                    # A lease of no length is lost to whoever comes next.
                    lease = queue.leases.acquire(f"board-{turn % 3}", str(number), ttl_s=0)
                    while (job := queue.take(lease)) is not None:
                        queue.done(lease, job, {"by": number})
                        counted += 1
        return counted

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(control, range(4))) == 90
    database = open_farm(url)
    with database.writing() as connection:
        assert connection.execute(select(func.count()).where(jobs.c.state == "done")).scalar_one() == 90
    database.close()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(submitted=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 1)), min_size=1, max_size=25))
def test_no_owner_is_more_than_one_ahead_of_another_that_waits(
    tmp_path_factory: pytest.TempPathFactory, submitted: list[tuple[str, int]]
) -> None:
    database = open_farm(f"sqlite:///{tmp_path_factory.mktemp('farm') / 'history.db'}")
    queue = Queue(Leases(database, Clock()))
    wanted = [Job(f"{n:02}", "board", {}, owner, priority) for n, (owner, priority) in enumerate(submitted)]
    queue.submit(wanted)
    lease = queue.leases.acquire("board", "ann", ttl_s=1e6)
    left, order = list(wanted), []
    while (job := queue.take(lease)) is not None:
        assert job.priority == max(each.priority for each in left)
        left.remove(job)
        order.append(job)
    database.close()
    assert not left
    # With all at one priority, whoever still waits has had as many turns as the others, or one less.
    if len({priority for _, priority in submitted}) == 1:
        for place in range(len(order)):
            had = {owner: sum(job.owner == owner for job in order[:place]) for owner in "abc"}
            waits = {job.owner for job in order[place:]}
            assert max(had.values()) - min(had[owner] for owner in waits) <= 1


def test_a_policy_waits_twice_as_long_each_time_up_to_its_longest() -> None:
    assert [POLICY.wait_s(100, count) for count in (1, 2, 3, 5, 10**6)] == [100, 200, 400, 1000, 1000]
    assert json.loads(POLICY.model_dump_json())["tries"] == 3

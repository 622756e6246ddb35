"""What is to be done on a farm's devices, and what came of it: each job once, whatever becomes of controllers.

A job is the device's that it is for. Whoever has the lease of that device takes the next one; its result counts only as
long as that lease has not been followed by another, and what a lost controller left is taken up again.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from sqlalchemy import (
    BindParameter,
    Connection,
    Double,
    Row,
    bindparam,
    case,
    exists,
    func,
    not_,
    select,
    true,
    update,
)

from pipeline.farm import health
from pipeline.farm.clock import lasts
from pipeline.farm.leases import Lease, LeaseLost, Leases, ensure, note
from pipeline.farm.policy import Policy
from pipeline.farm.tables import devices, jobs
from pipeline.history.database import insert_missing, storable

CHUNK = 500
T = TypeVar("T")
_NOW: BindParameter[float] = bindparam("now", type_=Double)
# What is asked with every job, made once: of a device that is not aside, the first that waits for it and is due.
_NEXT = (
    select(jobs)
    .where(
        jobs.c.device == bindparam("of"),
        jobs.c.state == "queued",
        not_(lasts(jobs.c.aside_since, jobs.c.aside_until, _NOW)),
        not_(
            exists().where(
                devices.c.device == jobs.c.device, lasts(devices.c.aside_since, devices.c.aside_until, _NOW)
            )
        ),
    )
    .order_by(jobs.c.priority.desc(), jobs.c.turn, jobs.c.key)
    .limit(1)
)
_NEXT_OF = _NEXT.where(jobs.c.owner == bindparam("only"))
_RUN = update(jobs).where(jobs.c.key == bindparam("of")).values(state="running", token=bindparam("under"))
_DONE = (
    update(jobs)
    .where(jobs.c.key == bindparam("of"), jobs.c.token == bindparam("under"), jobs.c.state == "running")
    .values(state="done", result=bindparam("with"), error=None)
)
State = Literal["queued", "running", "done", "failed"]


@dataclass(frozen=True)
class Job:
    """Something to be done on a device. `key` names it for ever: it is done once, however often it is asked for.

    Of those that wait for a device the highest `priority` comes first, and within it each `owner` in turn.
    """

    key: str
    device: str
    payload: dict[str, Any] = field(default_factory=dict)
    owner: str = ""
    priority: int = 0


@dataclass(frozen=True)
class Outcome:
    """Where a job is, and once it is `done` its result, or once it is `failed` why."""

    key: str
    device: str
    state: State
    result: dict[str, Any] | None
    error: str | None
    failures: int


class Queue:
    """The jobs of one farm."""

    def __init__(self, leases: Leases, policy: Policy | None = None, only: str | None = None) -> None:
        """`only`: of all that wait, only the jobs of this owner are taken."""
        self.leases = leases
        self.only = only
        self.policy = policy or Policy()
        self._database = leases.database
        self._ours = jobs.c.owner == only if only is not None else true()
        # Of each device the last lease under which that was done.
        self._taken_up: dict[str, int] = {}

    def submit(self, wanted: Iterable[Job]) -> int:
        """Queue those that are not known yet; returns how many. All of them are there then, or none is."""
        with self._database.writing() as connection:
            turns = _Turns(connection)
            new = 0
            for chunk in _chunks(wanted):
                new += insert_missing(connection, jobs, *(_row(job, turns) for job in chunk))
        return new

    def take(self, lease: Lease) -> Job | None:
        """The next job of the leased device, which is then running; None while there is none. Raises `LeaseLost`."""
        with self._database.writing() as connection:
            ensure(connection, lease)
            now = self.leases.clock(connection)
            self._take_up(connection, lease)
            wanted, of = (_NEXT, {}) if self.only is None else (_NEXT_OF, {"only": self.only})
            row = connection.execute(wanted, {"of": lease.device, "now": now, **of}).first()
            if row is None:
                return None
            connection.execute(_RUN, {"of": row.key, "under": lease.token})
        return Job(row.key, row.device, json.loads(row.payload), row.owner, row.priority)

    def done(self, lease: Lease, job: Job, result: dict[str, Any]) -> None:
        """Keep a job's result. Raises `LeaseLost` where the device has been lent again since: it does not count."""
        text = json.dumps(result)
        with self._database.writing() as connection:
            ensure(connection, lease)
            ended = connection.execute(_DONE, {"of": job.key, "under": lease.token, "with": text}).rowcount
            if not ended:
                self._was(connection, lease, job, "done")
            health.well(connection, lease)

    def failed(self, lease: Lease, job: Job, error: str) -> None:
        """The job itself is at fault: it is not tried again."""
        error = storable(error)
        with self._database.writing() as connection:
            ensure(connection, lease)
            self._end(connection, lease, job, {"state": "failed", "error": error})

    def device_failed(self, lease: Lease, error: str, job: Job | None = None) -> str:
        """The leased device is at fault, if at a job, that one is tried again up to `Policy.tries` times in all.

        Returns `aside` when the device was put aside for it, `given up` with all its jobs, or neither. Raises
        `LeaseLost`.
        """
        error = storable(error)
        with self._database.writing() as connection:
            ensure(connection, lease)
            now = self.leases.clock(connection)
            if job is not None:
                self._retry(connection, lease, job, error, now)
            became = health.failed(connection, lease, error, self.policy, now)
            if became == "given up":
                # Another's jobs are for its own controller to give up.
                waiting = (jobs.c.device == lease.device, jobs.c.state == "queued", self._ours)
                change = {"state": "failed", "error": f"{lease.device} is out of order: {error}"}
                connection.execute(update(jobs).where(*waiting).values(change))
        return became

    def postponed(self, lease: Lease, job: Job, error: str) -> None:
        """Somebody who is none of the farm's has the leased device: the job waits, nothing is held against either."""
        error = storable(error)
        with self._database.writing() as connection:
            ensure(connection, lease)
            now = self.leases.clock(connection)
            losses = connection.execute(select(jobs.c.losses).where(jobs.c.key == job.key)).scalar_one() + 1
            change: dict[str, Any] = {"losses": losses, "error": error, "state": "failed"}
            if losses < self.policy.losses:
                change |= {"state": "queued", "aside_since": now, "aside_until": now + self.policy.busy_s}
            self._end(connection, lease, job, change)

    def withdraw(self, why: str) -> None:
        """Give up what this owner's jobs have not come to, because nobody is left to take them."""
        left = (jobs.c.state.in_(("queued", "running")), jobs.c.owner == self.only)
        with self._database.writing() as connection:
            connection.execute(update(jobs).where(*left).values(state="failed", error=storable(why)))

    def note(self, lease: Lease, what: str, detail: str) -> None:
        """Write down what was done to a device."""
        with self._database.writing() as connection:
            note(connection, lease.device, what, lease.token, lease.holder, detail)

    def wait_s(self, device: str) -> float | None:
        """Seconds until a job of the device may be due; None when all are done or failed."""
        with self._database.writing() as connection:
            now = self.leases.clock(connection)
            waits = lasts(jobs.c.aside_since, jobs.c.aside_until, now)
            # In one question: others change the jobs meanwhile.
            first = connection.execute(
                select(func.min(case((waits, jobs.c.aside_until), else_=now))).where(
                    jobs.c.device == device,
                    jobs.c.state.in_(("queued", "running")),
                    self._ours,
                )
            ).scalar_one()
            aside = health.aside_s(health.standing(connection, device), now)
        return None if first is None else max(aside, float(first) - now)

    def outcomes(self, keys: Sequence[str]) -> list[Outcome]:
        """Where these jobs are, in this order; those that nobody has asked for are left out."""
        found: dict[str, Outcome] = {}
        with self._database.writing() as connection:
            for chunk in _chunks(keys):
                rows = connection.execute(select(jobs).where(jobs.c.key.in_(chunk)))
                found |= {row.key: _outcome(row) for row in rows}
        return [found[key] for key in keys if key in found]

    def _take_up(self, connection: Connection, lease: Lease) -> None:
        """Queue again what ran under earlier leases, which have ended without a word."""
        if self._taken_up.get(lease.device) == lease.token:
            return
        self._taken_up[lease.device] = lease.token
        left = (jobs.c.device == lease.device, jobs.c.state == "running", jobs.c.token < lease.token)
        for row in connection.execute(select(jobs).where(*left)).all():
            losses = row.losses + 1
            change: dict[str, Any] = {"state": "queued", "losses": losses}
            if losses >= self.policy.losses:
                error = f"given up: {losses} times the controller that ran it was gone before it ended"
                change |= {"state": "failed", "error": error}
            # Meanwhile its owner may have withdrawn it.
            still = (jobs.c.key == row.key, jobs.c.state == "running")
            connection.execute(update(jobs).where(*still).values(change))

    def _retry(self, connection: Connection, lease: Lease, job: Job, error: str, now: float) -> None:
        row = connection.execute(select(jobs).where(jobs.c.key == job.key)).one()
        failures = row.failures + 1
        change: dict[str, Any] = {"failures": failures, "error": error, "state": "failed"}
        if failures < self.policy.tries:
            wait_s = self.policy.wait_s(self.policy.retry_s, failures)
            change |= {"state": "queued", "aside_since": now, "aside_until": now + wait_s}
        self._end(connection, lease, job, change)

    def _end(self, connection: Connection, lease: Lease, job: Job, change: dict[str, Any]) -> None:
        """Only what runs under this lease; said twice, because the first answer was lost, it is as said once."""
        ours = (jobs.c.key == job.key, jobs.c.token == lease.token, jobs.c.state == "running")
        if not connection.execute(update(jobs).where(*ours).values(change)).rowcount:
            self._was(connection, lease, job, change["state"])

    @staticmethod
    def _was(connection: Connection, lease: Lease, job: Job, state: State) -> None:
        """It has been ended in this way already. Raises `LeaseLost`."""
        ours = (jobs.c.key == job.key, jobs.c.token == lease.token)
        if connection.execute(select(jobs.c.state).where(*ours)).scalar() != state:
            raise LeaseLost(
                f"{job.device}: job {job.key} does not run under the lease with token {lease.token}",
                "what was under way there does not count, and is done again",
            )


class _Turns:
    """Each owner's next turn on each device. Who comes late begins with those whose turn it is, not at the end."""

    def __init__(self, connection: Connection) -> None:
        queued = select(jobs.c.device, jobs.c.owner, func.min(jobs.c.turn), func.max(jobs.c.turn))
        rows = connection.execute(
            queued.where(jobs.c.state == "queued").group_by(jobs.c.device, jobs.c.owner)
        )
        self._last: dict[tuple[str, str], int] = {}
        self._first: dict[str, int] = defaultdict(int)
        for device, owner, first, last in rows:
            self._last[device, owner] = last
            self._first[device] = min(first, self._first.get(device, first))

    def next(self, job: Job) -> int:
        before = self._first[job.device] - 1 if job.device in self._first else 0
        turn = max(self._last.get((job.device, job.owner), before), before) + 1
        self._last[job.device, job.owner] = turn
        return turn


def _row(job: Job, turns: _Turns) -> dict[str, Any]:
    return {
        "key": job.key,
        "device": job.device,
        "owner": job.owner,
        "priority": job.priority,
        "turn": turns.next(job),
        "payload": json.dumps(job.payload),
        "state": "queued",
        "failures": 0,
        "losses": 0,
        "aside_since": 0.0,
        "aside_until": 0.0,
    }


def _outcome(row: Row[Any]) -> Outcome:
    result = None if row.result is None else json.loads(row.result)
    return Outcome(row.key, row.device, row.state, result, row.error, row.failures)


def _chunks(items: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(items)
    while chunk := list(itertools.islice(rest, CHUNK)):
        yield chunk

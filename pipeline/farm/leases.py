"""Devices as leases: who has a device, until when, and the token by which the device knows the last of them.

A lease that is not renewed ends by itself, so that no device stays taken by a controller that is gone. Each lease of a
device has a higher token than all before it, and the device refuses lower ones: a controller that lost its lease
without having noticed can do no harm.
"""

from __future__ import annotations

import secrets
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, bindparam, insert, select, update

from pipeline.farm.clock import Clock, database_clock
from pipeline.farm.tables import FARM_SCHEMA, events, farm, leases
from pipeline.history.database import Database, insert_missing, storable
from targets.errors import TargetError

TTL_S = 30.0
# Made once, for they are asked again and again.
_LOCKED = select(leases).where(leases.c.device == bindparam("of")).with_for_update()
_LEND = (
    update(leases)
    .where(leases.c.device == bindparam("of"))
    .values({name: bindparam(name) for name in ("token", "holder", "held_since", "held_until")})
)
_RENEW = (
    update(leases)
    .where(leases.c.holder == bindparam("by"), leases.c.device.in_(bindparam("devices", expanding=True)))
    .values({name: bindparam(name) for name in ("held_since", "held_until")})
    .returning(leases.c.device, leases.c.token)
)
_GIVE_BACK = (
    update(leases)
    .where(
        leases.c.device == bindparam("of"),
        leases.c.token == bindparam("under"),
        leases.c.holder == bindparam("by"),
    )
    .values(holder=None)
)
_NOTE = insert(events)


class DeviceTaken(TargetError):
    """Somebody else has the device: exit code 3."""


class LeaseLost(TargetError):
    """The lease has ended, and the device may be another's: exit code 3."""


@dataclass(frozen=True)
class Lease:
    """A device that is ours until `ttl_s` seconds after the lease was last renewed."""

    device: str
    farm: str
    token: int
    holder: str
    ttl_s: float

    @property
    def fence(self) -> dict[str, Any]:
        """What the device is to know, in the words of the agent's jobs; see `open_device`."""
        return {"farm": self.farm, "token": self.token}


class Leases:
    """The leases of one farm. Many controllers, each with many threads, may use the same database."""

    def __init__(self, database: Database, clock: Clock = database_clock) -> None:
        self.database = database
        self.clock = clock
        with database.writing() as connection:
            self.farm = _farm(connection)

    def acquire(self, device: str, holder: str, ttl_s: float = TTL_S) -> Lease:
        """Take a device that nobody has. Raises `DeviceTaken`."""
        with self.database.writing() as connection:
            row = locked(connection, device)
            now = self.clock(connection)
            if row.holder is not None and row.held_since <= now < row.held_until:
                raise DeviceTaken(
                    f"{device}: {row.holder} has it",
                    f"its lease ends in {row.held_until - now:.0f} s unless it is renewed",
                )
            if row.holder is not None:
                note(connection, device, "expired", row.token, row.holder)
            found = Lease(device, self.farm, row.token + 1, holder, ttl_s)
            change = {"token": found.token, "holder": holder, "held_since": now, "held_until": now + ttl_s}
            connection.execute(_LEND, {"of": device, **change})
            note(connection, device, "acquired", found.token, holder)
        return found

    def renew(self, held: Iterable[Lease]) -> list[Lease]:
        """The heartbeat: each begins its time anew. Returns those that are lost.

        One that has run out, but that nobody else has taken since, is ours again.
        """
        alike: dict[tuple[str, float], list[Lease]] = defaultdict(list)
        for lease in held:
            alike[lease.holder, lease.ttl_s].append(lease)
        lost = []
        with self.database.writing(urgent=True) as connection:
            for (holder, ttl_s), some in alike.items():
                now = self.clock(connection)
                names = {"by": holder, "devices": [lease.device for lease in some]}
                change = {"held_since": now, "held_until": now + ttl_s}
                tokens = {row.device: row.token for row in connection.execute(_RENEW, {**names, **change})}
                lost += [lease for lease in some if tokens.get(lease.device) != lease.token]
        return lost

    def release(self, lease: Lease) -> bool:
        """Give a device back; False where the lease was lost before."""
        with self.database.writing() as connection:
            names = {"of": lease.device, "under": lease.token, "by": lease.holder}
            ours = connection.execute(_GIVE_BACK, names).rowcount == 1
            if ours:
                note(connection, lease.device, "released", lease.token, lease.holder)
        return ours

    def held(self) -> list[dict[str, Any]]:
        """Every lease that has not ended: `device`, `token`, `holder` and the `seconds` left."""
        with self.database.writing() as connection:
            now = self.clock(connection)
            rows = connection.execute(
                select(leases).where(leases.c.holder.is_not(None)).order_by(leases.c.device)
            ).all()
        return [
            {"device": row.device, "token": row.token, "holder": row.holder, "seconds": row.held_until - now}
            for row in rows
            if row.held_since <= now < row.held_until
        ]


def open_farm(url: str | None = None) -> Database:
    """The farm's tables in the history's database, which is to be closed. Raises `UserError`."""
    return Database(url, FARM_SCHEMA)


def locked(connection: Connection, device: str) -> Row[Any]:
    """The device's row in `leases`, which no other transaction changes before this one has ended."""
    row = connection.execute(_LOCKED, {"of": device}).first()
    if row is None:
        fresh = {"device": device, "token": 0, "holder": None, "held_since": 0.0, "held_until": 0.0}
        insert_missing(connection, leases, fresh)
        row = connection.execute(_LOCKED, {"of": device}).one()
    return row


def ensure(connection: Connection, lease: Lease) -> None:
    """Within a transaction: the lease is ours, and stays so until the transaction has ended. Raises `LeaseLost`."""
    row = locked(connection, lease.device)
    if (row.token, row.holder) != (lease.token, lease.holder):
        raise LeaseLost(
            f"{lease.device}: the lease with token {lease.token} has ended; the last one has {row.token}",
            "what was under way there does not count, and is done again",
        )


def note(connection: Connection, device: str, what: str, token: int, holder: str, detail: str = "") -> None:
    """Write down what happened."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    row = {"at": at, "device": device, "what": what, "token": token, "holder": holder}
    connection.execute(_NOTE, {**row, "detail": storable(detail)})


def _farm(connection: Connection) -> str:
    insert_missing(connection, farm, {"row": 1, "id": secrets.token_hex(16)})
    return str(connection.execute(select(farm.c.id)).scalar_one())

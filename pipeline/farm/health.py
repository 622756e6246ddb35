"""How the devices of a farm fare: one that fails again and again is put aside for a while, and then tried anew."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, bindparam, select, update

from pipeline.farm.leases import Lease, note
from pipeline.farm.policy import Policy
from pipeline.farm.tables import devices
from pipeline.history.database import insert_missing

_FORGOTTEN = {"failures": 0, "quarantines": 0, "aside_since": 0.0, "aside_until": 0.0, "reason": ""}
# Made once: it is asked with every job.
_STANDING = select(devices).where(devices.c.device == bindparam("of"))


def standing(connection: Connection, device: str) -> Row[Any] | None:
    """The device's row; None as long as it has never failed."""
    return connection.execute(_STANDING, {"of": device}).first()


def aside_s(row: Row[Any] | None, now: float) -> float:
    """For how many seconds more the device is aside; 0: it is not."""
    return row.aside_until - now if row is not None and row.aside_since <= now < row.aside_until else 0.0


def failed(connection: Connection, lease: Lease, reason: str, policy: Policy, now: float) -> str:
    """Count a failure of the leased device: `""`, `aside` when it has been put aside for it, or `given up`, after which
    whoever comes next has as much patience with it as ever."""
    fresh = {"device": lease.device, "failures": 0, "quarantines": 0, "reason": ""}
    insert_missing(connection, devices, {**fresh, "aside_since": 0.0, "aside_until": 0.0})
    row = standing(connection, lease.device)
    assert row is not None
    failures, quarantines, became = row.failures + 1, row.quarantines, ""
    change: dict[str, Any] = {"failures": failures, "reason": reason}
    # After a quarantine one failure is enough.
    if failures >= policy.patience or quarantines:
        quarantines += 1
        wait_s = policy.wait_s(policy.probation_s, quarantines)
        change |= {"quarantines": quarantines, "aside_since": now, "aside_until": now + wait_s}
        became = "aside"
        if quarantines > policy.quarantines:
            change, became = _FORGOTTEN, "given up"
        note(connection, lease.device, became, lease.token, lease.holder, reason)
    connection.execute(update(devices).where(devices.c.device == lease.device).values(change))
    return became


def well(connection: Connection, lease: Lease) -> None:
    """The leased device has done a job: what was held against it is forgotten."""
    row = standing(connection, lease.device)
    if row is None or not row.failures:
        return
    if row.quarantines:
        note(connection, lease.device, "restored", lease.token, lease.holder)
    forget(connection, lease.device)


def forget(connection: Connection, device: str) -> None:
    """Hold nothing against a device any more."""
    connection.execute(update(devices).where(devices.c.device == device).values(_FORGOTTEN))

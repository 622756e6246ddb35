"""What a farm is at: who has which device, which are aside and why, what waits for each, and what happened last."""

from __future__ import annotations

import getpass
import socket
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import func, select

from pipeline.errors import UserError
from pipeline.farm import health
from pipeline.farm.leases import Leases, locked, note
from pipeline.farm.tables import devices, events, jobs, leases
from pipeline.strict_yaml import suggest


@dataclass(frozen=True)
class Standing:
    """A device; `holder` and `lease_s`, the seconds left, are None where nobody has it. `aside_s` is 0 where it is not
    put aside, `failures` are those in a row, `jobs` how many there are in each state, of all nights."""

    device: str
    holder: str | None
    lease_s: float | None
    aside_s: float
    failures: int
    reason: str
    jobs: dict[str, int]


def known(farm: Leases) -> list[str]:
    """The devices that were ever lent or have a job."""
    with farm.database.writing() as connection:
        lent = connection.execute(select(leases.c.device)).scalars()
        return sorted({*lent, *connection.execute(select(jobs.c.device).distinct()).scalars()})


def standings(farm: Leases) -> list[Standing]:
    """Every device that the farm knows, by name."""
    held = {each["device"]: each for each in farm.held()}
    with farm.database.writing() as connection:
        now = farm.clock(connection)
        counted: dict[str, Counter[str]] = defaultdict(Counter)
        asked = select(jobs.c.device, jobs.c.state, func.count()).group_by(jobs.c.device, jobs.c.state)
        for device, state, number in connection.execute(asked):
            counted[device][state] = number
        rows = {row.device: row for row in connection.execute(select(devices))}
    found = []
    for name in known(farm):
        row, lease = rows.get(name), held.get(name)
        found.append(
            Standing(
                name,
                lease["holder"] if lease else None,
                lease["seconds"] if lease else None,
                health.aside_s(row, now),
                row.failures if row is not None else 0,
                row.reason if row is not None else "",
                dict(counted[name]),
            )
        )
    return found


def happened(farm: Leases, last: int, device: str = "") -> list[dict[str, Any]]:
    """The last events, the newest last: when, which device, what, under which token, by whom, and details."""
    newest = select(events).order_by(events.c.id.desc()).limit(last)
    if device:
        newest = newest.where(events.c.device == device)
    with farm.database.writing() as connection:
        rows = connection.execute(newest).mappings().all()
    return [{key: row[key] for key in row if key != "id"} for row in reversed(rows)]


def restore(farm: Leases, device: str) -> bool:
    """Forget what is held against a device, so that its next job that is due is tried; False where nothing was.

    Raises `UserError` for one that the farm does not know.
    """
    if device not in (there := known(farm)):
        raise UserError(f"{device}: no device that this farm knows; {suggest(device, there)}")
    with farm.database.writing() as connection:
        # First, as by all who change how a device stands.
        token = locked(connection, device).token
        row = health.standing(connection, device)
        if row is None or not row.failures:
            return False
        health.forget(connection, device)
        note(connection, device, "restored", token, _who(), "by hand")
    return True


def document(farm: Leases, last: int, device: str = "") -> dict[str, Any]:
    """All of it as a JSON document: `farm` (its id), `devices` and `events`."""
    found = [asdict(each) for each in standings(farm) if device in ("", each.device)]
    return {"farm": farm.farm, "devices": found, "events": happened(farm, last, device)}


def _who() -> str:
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError, ImportError):
        return socket.gethostname()

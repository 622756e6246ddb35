"""The time that leases end by: the database's, one for all hosts, whatever theirs say."""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import BindParameter, Column, ColumnElement, Connection, and_, text

Clock = Callable[[Connection], float]


def database_clock(connection: Connection) -> float:
    """Seconds, comparable within one database.

    PostgreSQL's own clock; SQLite has none, but all that use its file are on one machine: so the time since that
    was started, which nobody sets and which goes on while it sleeps.
    """
    if connection.dialect.name == "postgresql":
        return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def lasts(
    since: Column[float], until: Column[float], now: float | BindParameter[float]
) -> ColumnElement[bool]:
    """Whether a span is not over. One that begins in the future is of a clock that was started anew since."""
    return and_(since <= now, until > now)

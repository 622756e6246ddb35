"""The farm's tables, in the history's database: who has which device, what is to be done, how the devices fare."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Index, Integer, MetaData, String, Table, Text

from pipeline.history.migrations import Schema

FARM = MetaData()

farm_schema_version = Table("farm_schema_version", FARM, Column("version", Integer, nullable=False))

# Of one row: which farm this is, to the devices.
farm = Table(
    "farm",
    FARM,
    Column("row", Integer, primary_key=True, autoincrement=False),
    Column("id", String(64), nullable=False),
)

# A span from `x_since` until before `x_until`, in seconds of `clock.py`, is over, too, where it begins in the future:
# that clock has been started anew since.
leases = Table(
    "leases",
    FARM,
    Column("device", String(200), primary_key=True),
    # Of the last lease there was. It only ever grows.
    Column("token", BigInteger, nullable=False),
    Column("holder", String(200)),
    Column("held_since", Double, nullable=False),
    Column("held_until", Double, nullable=False),
)

devices = Table(
    "farm_devices",
    FARM,
    Column("device", String(200), primary_key=True),
    # In a row; a job that is done ends it.
    Column("failures", Integer, nullable=False),
    # How often in a row it was put aside for them.
    Column("quarantines", Integer, nullable=False),
    Column("aside_since", Double, nullable=False),
    Column("aside_until", Double, nullable=False),
    Column("reason", Text, nullable=False),
)

jobs = Table(
    "jobs",
    FARM,
    Column("key", String(200), primary_key=True),
    Column("device", String(200), nullable=False),
    Column("owner", String(200), nullable=False),
    Column("priority", Integer, nullable=False),
    # Among jobs of one priority: each owner's first, each owner's second, ...
    Column("turn", BigInteger, nullable=False),
    Column("payload", Text, nullable=False),
    # queued | running | done | failed
    Column("state", String(16), nullable=False),
    # Of the lease that it ran under last.
    Column("token", BigInteger),
    # Of the device, while it ran; and how often its controller was gone before it ended, or
    # the device was somebody's who is none of the farm's.
    Column("failures", Integer, nullable=False),
    Column("losses", Integer, nullable=False),
    Column("aside_since", Double, nullable=False),
    Column("aside_until", Double, nullable=False),
    Column("result", Text),
    Column("error", Text),
)
Index("jobs_next", jobs.c.device, jobs.c.state, jobs.c.priority.desc(), jobs.c.turn, jobs.c.key)

# What happened, for people to read: `at` is UTC by the clock of whoever wrote it.
events = Table(
    "farm_events",
    FARM,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("at", String(32), nullable=False),
    Column("device", String(200), nullable=False),
    Column("what", String(32), nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("holder", Text, nullable=False),
    Column("detail", Text, nullable=False),
)
Index("farm_events_device", events.c.device, events.c.id)

FARM_SCHEMA = Schema(FARM, farm_schema_version, 1, {}, {"farm_events": ("UPDATE", "DELETE")})

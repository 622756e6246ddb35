"""The tables of the history, the same in SQLite and in PostgreSQL. What was measured is never changed there."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

HISTORY = MetaData()

# Of one row: the version of all the tables, see `migrations`.
schema_version = Table("schema_version", HISTORY, Column("version", Integer, nullable=False))

# Documents are JSON texts, instants are UTC as "2026-01-31T02:00:00Z", times are milliseconds.
runs = Table(
    "runs",
    HISTORY,
    Column("id", String(128), primary_key=True),
    Column("created", String(32), nullable=False),
    Column("version", String(32), nullable=False),
    Column("plan", String(64), nullable=False),
    Column("plan_document", Text, nullable=False),
    Column("host", Text, nullable=False),
    # Of each target how it ended, also of those that were not measured.
    Column("endings", Text, nullable=False),
)

measurements = Table(
    "measurements",
    HISTORY,
    Column("id", String(64), primary_key=True),
    Column("run", ForeignKey("runs.id"), nullable=False),
    Column("started", String(32), nullable=False),
    Column("plan", String(64), nullable=False),
    Column("target", String(128), nullable=False),
    Column("variant", String(64), nullable=False),
    Column("segment", String(64), nullable=False),
    Column("emulated", Boolean, nullable=False),
    Column("validity", String(16)),
    Column("digest", String(64), nullable=False),
    Column("p50_ms", Double),
    Column("p90_ms", Double),
    Column("p99_ms", Double),
    Column("peak_memory_bytes", Double),
    Column("file_bytes", Double),
    Column("metric_name", String(128)),
    Column("metric", Double),
    Column("identity", Text, nullable=False),
    Column("environment", Text, nullable=False),
    # Of the agent, the runtime's bundle and the inputs.
    Column("digests", Text, nullable=False),
)
Index("measurements_series", measurements.c.plan, measurements.c.target, measurements.c.variant)
Index("measurements_run", measurements.c.run)

# The repetitions with all samples, apart: the one thing that may be removed, and only by a rule that is kept.
raw_samples = Table(
    "raw_samples",
    HISTORY,
    Column("measurement", ForeignKey("measurements.id"), primary_key=True),
    Column("repetitions", LargeBinary, nullable=False),
)

prunings = Table(
    "prunings",
    HISTORY,
    Column("id", Integer, primary_key=True),
    Column("at", String(32), nullable=False),
    Column("rule", Text, nullable=False),
    Column("measurements", Integer, nullable=False),
)

# Every night that was judged, its document whole; `name` is the nightly file's.
nights = Table(
    "nights",
    HISTORY,
    Column("id", String(128), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("created", String(32), nullable=False),
    Column("exit_code", Integer, nullable=False),
    Column("document", Text, nullable=False),
)

# Which file became the baseline of a series when, by whom and why; `run` is where it was measured.
baselines = Table(
    "baselines",
    HISTORY,
    Column("id", String(64), primary_key=True),
    Column("at", String(32), nullable=False),
    Column("name", String(64), nullable=False),
    Column("plan", String(64), nullable=False),
    Column("target", String(128), nullable=False),
    Column("run", String(128), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("canary", String(64), nullable=False),
    Column("owner", String(128), nullable=False),
    Column("reason", Text, nullable=False),
)

# What a row of these says was so then: it is never changed nor removed.
APPEND_ONLY = ("runs", "measurements", "prunings", "nights", "baselines")

"""What the history holds: rows of measurements, filtered, and their raw samples."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from sqlalchemy import Connection, Select, exists, select

from pipeline.history.record import documents_in, unpacked
from pipeline.history.tables import measurements, raw_samples
from pipeline.measurement.measurement import Repetition

DOCUMENTS = ("identity", "environment", "digests")


@dataclass(frozen=True)
class Filter:
    """Which measurements; what is empty leaves all in. `since` is an instant, or how one begins: 2026-01-31."""

    plan: str = ""
    target: str = ""
    variant: str = ""
    since: str = ""
    last: int | None = None


def rows(connection: Connection, wanted: Filter) -> Iterator[dict[str, Any]]:
    """The measurements in the order of time, each a row of the table, and whether its raw samples are there."""
    has_raw = exists().where(raw_samples.c.measurement == measurements.c.id)
    query = _where(select(measurements, has_raw.label("raw")), wanted)
    order = (measurements.c.started, measurements.c.id)
    if wanted.last is not None:
        newest = query.order_by(*[column.desc() for column in order]).limit(wanted.last).subquery()
        query = select(newest).order_by(newest.c.started, newest.c.id)
    else:
        query = query.order_by(*order)
    for row in connection.execute(query).mappings():
        yield {key: json.loads(row[key]) if key in DOCUMENTS else row[key] for key in row}


def _where(query: Select[Any], wanted: Filter) -> Select[Any]:
    for name in ("plan", "target", "variant"):
        if value := getattr(wanted, name):
            query = query.where(measurements.c[name] == value)
    return query.where(measurements.c.started >= wanted.since) if wanted.since else query


def repetitions_of(connection: Connection, identifier: str) -> tuple[Repetition, ...] | None:
    """The repetitions of a measurement with all their samples; None where these were pruned."""
    query = select(raw_samples.c.repetitions).where(raw_samples.c.measurement == identifier)
    content = connection.execute(query).scalar_one_or_none()
    return None if content is None else unpacked(content)


def medians_of(connection: Connection, identifiers: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """The median latency of each process, in nanoseconds, of those measurements whose raw samples are there."""
    query = select(raw_samples).where(raw_samples.c.measurement.in_(identifiers))
    return {
        row.measurement: tuple(float(median(each["samples_ns"])) for each in documents_in(row.repetitions))
        for row in connection.execute(query)
    }

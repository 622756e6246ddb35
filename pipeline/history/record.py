"""A run's measurements into the history: all that is in them, once, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection

from pipeline.artifacts import canonical_json
from pipeline.history import series
from pipeline.history.database import insert_missing, writing
from pipeline.history.tables import measurements, raw_samples, runs
from pipeline.measurement.measurement import Measurement, Repetition
from pipeline.result import Result, TargetResult


def record(result: Result, url: str | None = None) -> int:
    """Add every measurement of a run that has repetitions, those of invalid sessions, too; returns how many were new.

    `url` is the database, by default `default_url()`. What is there already stays as it is, so that a run may be
    recorded again, or while its targets come in. Raises `UserError` where the database cannot be had.
    """
    rows = [
        _row(result, name, session, measurement, *number)
        for name, target in result.targets.items()
        for number, session in _sessions(target)
        for measurement in session.measurements.values()
        if measurement.repetitions
    ]
    with writing(url) as connection:
        insert_missing(connection, runs, _run_row(result))
        return sum(_add_measurement(connection, *row) for row in rows)


def measurement_id(run: str, target: str, variant: str, *invalid_session: int) -> str:
    """One and the same whenever and wherever that measurement is recorded; that of a session which was taken again has
    that session's number, from 0."""
    return hashlib.sha256(canonical_json([run, target, variant, *invalid_session])).hexdigest()


def _sessions(target: TargetResult) -> Iterator[tuple[tuple[int, ...], TargetResult]]:
    """The session that counts, and each that was taken again, as if it were the target's only one."""
    yield (), target
    for number, session in enumerate(target.invalid_sessions):
        fields = {name: getattr(session, name) for name in ("validity", "environment", "measurements")}
        yield (number,), target.model_copy(update={**fields, "summaries": {}})


def packed(repetitions: tuple[Repetition, ...]) -> bytes:
    """Repetitions with all their samples, compressed."""
    documents = [repetition.model_dump(mode="json") for repetition in repetitions]
    return zlib.compress(json.dumps(documents, separators=(",", ":")).encode())


def unpacked(content: bytes) -> tuple[Repetition, ...]:
    """What was packed."""
    return tuple(map(Repetition.model_validate, documents_in(content)))


def documents_in(content: bytes) -> list[dict[str, Any]]:
    """What was packed, as plain documents."""
    return list(json.loads(zlib.decompress(content)))


def _add_measurement(connection: Connection, row: dict[str, Any], measurement: Measurement) -> bool:
    if not insert_missing(connection, measurements, row):
        return False
    content = packed(measurement.repetitions)
    insert_missing(connection, raw_samples, {"measurement": row["id"], "repetitions": content})
    return True


def _run_row(result: Result) -> dict[str, Any]:
    endings = {
        name: {"exit_code": target.exit_code, "headline": target.headline, "error": target.error}
        for name, target in result.targets.items()
    }
    return {
        "id": result.id,
        "created": result.created,
        "version": result.version,
        "plan": result.name,
        "plan_document": json.dumps(result.plan),
        "host": json.dumps(result.host),
        "endings": json.dumps(endings),
    }


def _row(
    result: Result, name: str, target: TargetResult, measurement: Measurement, *number: int
) -> tuple[dict[str, Any], Measurement]:
    identity, variant = series.identity(target), measurement.variant
    row: dict[str, Any] = {
        "id": measurement_id(result.id, name, variant, *number),
        "run": result.id,
        "started": target.started or result.created,
        "plan": result.name,
        "target": name,
        "variant": variant,
        "segment": series.segment(identity),
        "emulated": target.emulated,
        "validity": target.validity.state if target.validity else None,
        "digest": measurement.digest,
        "metric_name": result.model.metric if result.model else None,
        "metric": measurement.metric,
        "identity": json.dumps(identity),
        "environment": json.dumps(target.environment),
        "digests": json.dumps(target.digests),
    }
    if (summary := target.summaries.get(variant)) is not None:
        for figure in ("p50_ms", "p90_ms", "p99_ms"):
            row[figure] = getattr(summary, figure).value
        row["peak_memory_bytes"] = summary.peak_memory_bytes
    if target.encoded and variant in target.encoded.variants:
        row["file_bytes"] = target.encoded.variants[variant].bytes
    return row, measurement

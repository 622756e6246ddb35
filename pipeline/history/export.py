"""The history as one file for other tools: CSV, JSON or Parquet, as its ending says."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from pipeline import atomic
from pipeline.errors import UserError
from pipeline.history.read import DOCUMENTS, Filter, repetitions_of, rows
from pipeline.history.tables import measurements

ENDINGS = (".csv", ".json", ".parquet")
COLUMNS = (*measurements.columns.keys(), "raw")
# Rows that are held in memory at once.
BATCH = 256


def check(path: Path) -> None:
    """Raise `UserError` where the file's ending names no format, or one that cannot be written here."""
    if path.suffix not in ENDINGS:
        raise UserError(f"{path}: expected a file that ends with {', '.join(ENDINGS)}")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ModuleNotFoundError:
            raise UserError(
                f"{path}: Parquet needs the package pyarrow; install it: pip install 'edgepipe[farm]'"
            ) from None


def export(connection: Connection, wanted: Filter, path: Path, *, samples: bool) -> int:
    """Write the measurements, one a row; with `samples` the raw ones, too: `samples_ns`, a list for each process, null
    where they were pruned. Returns how many rows; `check` the path first.
    """
    found = rows(connection, wanted)
    if samples:
        found = _with_samples(connection, list(found))
    columns = (*COLUMNS, "samples_ns") if samples else COLUMNS
    write = {".csv": _csv, ".json": _json, ".parquet": _parquet}[path.suffix]
    with atomic.new_file(path) as temporary:
        return write(temporary, columns, found)


def _with_samples(connection: Connection, found: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in found:
        repetitions = repetitions_of(connection, row["id"])
        samples = None if repetitions is None else [list(each.samples_ns) for each in repetitions]
        yield {**row, "samples_ns": samples}


def _csv(path: Path, columns: tuple[str, ...], found: Iterable[dict[str, Any]]) -> int:
    count = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for row in found:
            writer.writerow({key: _flat(key, value) for key, value in row.items()})
            count += 1
    return count


def _flat(key: str, value: Any) -> Any:
    return json.dumps(value) if key in DOCUMENTS or isinstance(value, list | bool) else value


def _json(path: Path, columns: tuple[str, ...], found: Iterable[dict[str, Any]]) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for row in found:
            file.write(("\n" if count == 0 else ",\n") + json.dumps(row))
            count += 1
        file.write("\n]\n")
    return count


def _parquet(path: Path, columns: tuple[str, ...], found: Iterable[dict[str, Any]]) -> int:
    import pyarrow
    from pyarrow import parquet

    kinds = {name: _arrow(pyarrow, name) for name in columns}
    schema = pyarrow.schema(list(kinds.items()))
    count = 0
    with parquet.ParquetWriter(path, schema) as writer:
        batch: list[dict[str, Any]] = []

        def flush() -> None:
            if batch:
                writer.write_table(pyarrow.Table.from_pylist(batch, schema))
                batch.clear()

        for row in found:
            batch.append({key: json.dumps(row[key]) if key in DOCUMENTS else row[key] for key in columns})
            count += 1
            if len(batch) == BATCH:
                flush()
        flush()
    return count


def _arrow(pyarrow: Any, name: str) -> Any:
    if name == "samples_ns":
        return pyarrow.list_(pyarrow.list_(pyarrow.int64()))
    if name == "raw":
        return pyarrow.bool_()
    kind = measurements.columns[name].type.python_type
    return {str: pyarrow.string(), float: pyarrow.float64(), bool: pyarrow.bool_()}[kind]

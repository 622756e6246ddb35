"""Tables made, or brought to this version: numbered steps, in a transaction of one host at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, MetaData, Table, insert, inspect, select, text, update

from pipeline.errors import UserError
from pipeline.history.tables import APPEND_ONLY, HISTORY, schema_version

VERSION = 2


def _nights_and_baselines(connection: Connection) -> None:
    """Version 2: the nights that were judged, and which baselines were accepted."""
    for statement in (
        "CREATE TABLE nights (id VARCHAR(128) NOT NULL PRIMARY KEY, name VARCHAR(64) NOT NULL, "
        "created VARCHAR(32) NOT NULL, exit_code INTEGER NOT NULL, document TEXT NOT NULL)",
        "CREATE TABLE baselines (id VARCHAR(64) NOT NULL PRIMARY KEY, at VARCHAR(32) NOT NULL, "
        "name VARCHAR(64) NOT NULL, plan VARCHAR(64) NOT NULL, target VARCHAR(128) NOT NULL, "
        "run VARCHAR(128) NOT NULL, digest VARCHAR(64) NOT NULL, canary VARCHAR(64) NOT NULL, "
        "owner VARCHAR(128) NOT NULL, reason TEXT NOT NULL)",
        *_guards(connection.dialect.name, dict.fromkeys(("nights", "baselines"), ("UPDATE", "DELETE"))),
    ):
        connection.execute(text(statement))


# To each version from the one before. A new history is made from `tables` at once, so that a step is never changed.
STEPS: dict[int, Callable[[Connection], None]] = {2: _nights_and_baselines}
# "edgepipe", as a number: PostgreSQL's lock while the tables are changed.
LOCK = 0x6564676570697065


@dataclass(frozen=True)
class Schema:
    """Tables that have one version, which the only row of `versions` says.

    `frozen` are, of a table by its name, the statements that the database itself refuses.
    """

    metadata: MetaData
    versions: Table
    version: int
    steps: Mapping[int, Callable[[Connection], None]]
    frozen: Mapping[str, tuple[str, ...]]


def history_schema() -> Schema:
    """The history's own."""
    frozen = {table: ("UPDATE", "DELETE") for table in APPEND_ONLY} | {"raw_samples": ("UPDATE",)}
    return Schema(HISTORY, schema_version, VERSION, STEPS, frozen)


def migrate(connection: Connection, where: str, schema: Schema | None = None) -> None:
    """Bring the tables to their version, within the connection's transaction. Raises `UserError` where they are newer.

    Without a `schema` they are the history's.
    """
    schema = schema or history_schema()
    version = version_of(connection, schema)
    if version < schema.version and connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        version = version_of(connection, schema)
    if version > schema.version:
        raise UserError(
            f"{where}: its tables are of version {version}, this edgepipe knows up to {schema.version}; "
            "install the newer edgepipe that made them"
        )
    if version == 0:
        schema.metadata.create_all(connection)
        for statement in _guards(connection.dialect.name, schema.frozen):
            connection.execute(text(statement))
        connection.execute(insert(schema.versions).values(version=schema.version))
        return
    for number in range(version + 1, schema.version + 1):
        schema.steps[number](connection)
        connection.execute(update(schema.versions).values(version=number))


def version_of(connection: Connection, schema: Schema | None = None) -> int:
    """The version of the tables that are there; 0 where none are."""
    versions = (schema or history_schema()).versions
    if not inspect(connection).has_table(versions.name):
        return 0
    return int(connection.execute(select(versions.c.version)).scalar_one())


def _guards(dialect: str, changes: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """The database itself refuses to change what was measured, whoever asks."""
    if dialect == "postgresql":
        yield (
            "CREATE OR REPLACE FUNCTION append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'append-only: %', TG_TABLE_NAME; END $$"
        )
    for table, words in changes.items():
        for word in words:
            name = f"{table}_no_{word.lower()}"
            if dialect == "postgresql":
                yield (
                    f"CREATE TRIGGER {name} BEFORE {word} ON {table} "
                    "FOR EACH ROW EXECUTE FUNCTION append_only()"
                )
            else:
                yield (
                    f"CREATE TRIGGER {name} BEFORE {word} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, 'append-only: {table}'); END"
                )

"""The history's tables made, or brought to this version: numbered steps, in a transaction of one host at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sqlalchemy import Connection, insert, inspect, select, text, update

from pipeline.errors import UserError
from pipeline.history.tables import APPEND_ONLY, HISTORY, schema_version

VERSION = 1
# To each version from the one before. A new history is made from `tables` at once, so that a step is never changed.
STEPS: dict[int, Callable[[Connection], None]] = {}
# "edgepipe", as a number: PostgreSQL's lock while the tables are changed.
LOCK = 0x6564676570697065


def migrate(connection: Connection, where: str) -> None:
    """Bring the tables to `VERSION`, within the connection's transaction. Raises `UserError` where they are newer."""
    version = version_of(connection)
    if version < VERSION and connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        version = version_of(connection)
    if version > VERSION:
        raise UserError(
            f"{where}: its tables are of version {version}, this edgepipe knows up to {VERSION}; "
            "install the newer edgepipe that made them"
        )
    if version == 0:
        HISTORY.create_all(connection)
        for statement in _guards(connection.dialect.name):
            connection.execute(text(statement))
        connection.execute(insert(schema_version).values(version=VERSION))
        return
    for number in range(version + 1, VERSION + 1):
        STEPS[number](connection)
        connection.execute(update(schema_version).values(version=number))


def version_of(connection: Connection) -> int:
    """The version of the tables that are there; 0 where none are."""
    if not inspect(connection).has_table(schema_version.name):
        return 0
    return int(connection.execute(select(schema_version.c.version)).scalar_one())


def _guards(dialect: str) -> Iterator[str]:
    """The database itself refuses to change what was measured, whoever asks."""
    changes = {table: ("UPDATE", "DELETE") for table in APPEND_ONLY} | {"raw_samples": ("UPDATE",)}
    if dialect == "postgresql":
        yield (
            "CREATE FUNCTION append_only() RETURNS trigger LANGUAGE plpgsql AS "
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

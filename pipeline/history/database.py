"""The history's and the farm's database: SQLite in the state folder, or what a URL names."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.pool import NullPool, QueuePool

from pipeline.errors import UserError, first_line
from pipeline.history.migrations import Schema, migrate
from pipeline.history.turns import Turns
from targets.places import state_folder

VARIABLE = "EDGEPIPE_HISTORY"
EXAMPLES = "sqlite:///history.db or postgresql://user@host/edgepipe"
# How long another writer may take before a command gives up.
PATIENCE_S = 60
# The same among a farm's controllers, whose transactions are short and whose leases are to be renewed in time.
FARM_PATIENCE_S = 10
DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg", "sqlite": "sqlite"}


class DatabaseAway(UserError):
    """The database does not answer, or not in time; it may later."""


def default_url() -> str:
    """$EDGEPIPE_HISTORY, else a SQLite file in the state folder."""
    return os.environ.get(VARIABLE) or f"sqlite:///{state_folder() / 'history.db'}"


@contextlib.contextmanager
def writing(url: str | None = None) -> Iterator[Connection]:
    """A transaction that is wholly in the history when the block ends, on the disk, or not at all.

    The tables are made or brought to this version first. Raises `UserError` where the database cannot be had.
    """
    # Before anything is read, so that of two writers one waits instead of failing in the middle.
    with _connected(url, "BEGIN IMMEDIATE") as connection:
        yield connection


@contextlib.contextmanager
def reading(url: str | None = None) -> Iterator[Connection]:
    """A transaction that keeps no writer waiting, in tables of this version."""
    with writing(url):
        pass
    with _connected(url, "BEGIN") as connection:
        yield connection


@contextlib.contextmanager
def _connected(url: str | None, begin: str) -> Iterator[Connection]:
    wanted = _parsed(url or default_url())
    where = wanted.render_as_string(hide_password=True)
    engine = _engine(wanted, begin, PATIENCE_S, {"poolclass": NullPool})
    try:
        with _told(where), engine.connect() as connection:
            migrate(connection, where)
            yield connection
            connection.commit()
    finally:
        engine.dispose()


def insert_missing(connection: Connection, table: Table, *rows: Mapping[str, Any]) -> int:
    """Insert the rows whose keys are not there; how many."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table).on_conflict_do_nothing().returning(*table.primary_key)
    return len(connection.execute(statement, rows).all())


def storable(text: str) -> str:
    """A text from elsewhere as every database takes it: PostgreSQL refuses NUL, and none has a lone surrogate."""
    return text.replace("\x00", "\ufffd").encode(errors="replace").decode()


class Database:
    """A database that stays open, for whoever asks it again and again. Its tables are looked at once.

    A process has one connection, which its threads take turns with, in the order they ask. Raises `UserError` where the
    database cannot be had.
    """

    def __init__(self, url: str | None, *schemas: Schema) -> None:
        wanted = _parsed(url or default_url())
        self.where = wanted.render_as_string(hide_password=True)
        pool = {"poolclass": QueuePool, "pool_size": 1, "max_overflow": 0}
        self._turns = Turns()
        self._engine = _engine(wanted, "BEGIN IMMEDIATE", FARM_PATIENCE_S, {**pool, "pool_pre_ping": True})
        with self.writing() as connection:
            for schema in schemas:
                migrate(connection, self.where, schema)

    @contextlib.contextmanager
    def writing(self, *, urgent: bool = False) -> Iterator[Connection]:
        """A transaction that is wholly in the database when the block ends, on the disk, or not at all.

        `urgent`: before those of other threads that wait.
        """
        with self._turns.mine(urgent=urgent), _told(self.where), self._engine.connect() as connection:
            yield connection
            connection.commit()

    def close(self) -> None:
        """End the connection."""
        self._engine.dispose()


@contextlib.contextmanager
def _told(where: str) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        away = isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated
        raise (DatabaseAway if away else UserError)(
            f"the history at {where}: {first_line(error.orig)}; --history or ${VARIABLE} names another"
        ) from error


def _parsed(text: str) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise UserError(f"the history's URL is none; expected {EXAMPLES}") from None
    backend = url.get_backend_name()
    if backend not in DRIVERS:
        raise UserError(f"the history's URL begins with {backend}; expected {EXAMPLES}")
    if backend == "sqlite" and not url.database:
        raise UserError("the history's URL names no file; expected sqlite:///history.db")
    return url.set(drivername=DRIVERS[backend])


def _engine(url: URL, begin: str, patience_s: int, pool: dict[str, Any]) -> Engine:
    sqlite = url.get_backend_name() == "sqlite"
    if sqlite and url.database:
        try:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"the history at {url.database}: {error.strerror}: {error.filename}") from error
    options: dict[str, Any] = {"timeout": PATIENCE_S} if sqlite else _of_postgresql(url, patience_s)
    try:
        engine = create_engine(url, connect_args=options, **pool)
    except (ModuleNotFoundError, NoSuchModuleError):
        raise UserError(
            "a history in PostgreSQL needs the package psycopg; install it: pip install 'edgepipe[farm]'"
        ) from None
    if sqlite:
        event.listen(engine, "connect", _prepare)
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine


def _of_postgresql(url: URL, patience_s: int) -> dict[str, Any]:
    """Whoever vanishes within a transaction, with his machine or his network, keeps nobody else waiting for ever."""
    limits = {
        "idle_in_transaction_session_timeout": f"{patience_s}s",
        "lock_timeout": f"{patience_s}s",
        # The server's own look at whether the client is there.
        "tcp_keepalives_idle": "10",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
    }
    said = " ".join(f"-c {name}={value}" for name, value in limits.items())
    return {
        "connect_timeout": PATIENCE_S,
        # What the URL asks for comes last, and counts.
        "options": f"{said} {url.query.get('options', '')}".strip(),
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
    }


def _prepare(connection: sqlite3.Connection, record: object) -> None:
    # Transactions are begun by us, not when sqlite3 thinks that they should be.
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {PATIENCE_S * 1000}")
    connection.execute("PRAGMA journal_mode = WAL")
    # What was committed is on the disk, also where the power goes.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")

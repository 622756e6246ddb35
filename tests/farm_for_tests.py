"""What tests of a farm share: each of the two databases, empty, and a clock that is set by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection

from tests.postgres import new_database, server


class Clock:
    """Stands still until `now` is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self, connection: Connection) -> float:
        return self.now


def postgres_socket() -> Iterator[Path]:
    """A fixture, for a module: where a PostgreSQL server of its own listens."""
    with server() as folder:
        yield folder


def each_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fixture of `sqlite` and `postgresql`: an empty database. The module has `postgres_socket` as `socket`."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'made' / 'history.db'}"
    name = "".join(character for character in request.node.name if character.isalnum())
    return new_database(request.getfixturevalue("socket"), name[-60:])

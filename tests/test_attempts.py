"""Sessions that cannot be believed are taken again after a cool-down, kept, and compared with nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.artifacts import Artifact
from pipeline.plan import MeasureSection
from pipeline.stages import attempts, measure
from tests.test_validity import QUIET, session, state

VARIANTS = {name: Artifact(name, "tflite", Path(name)) for name in ("baseline", "dense", "sparse")}
GOOD, BAD = session(), session(environment={"throttled": 4})


class Board:
    """A device that remembers what was asked of it."""

    lock, name = "lock", "board"

    def __init__(self, emulated: bool = False) -> None:
        self.target = SimpleNamespace(emulated=emulated)
        self.asked: list[dict[str, Any]] = []

    def ask(self, do: str, **job: Any) -> list[dict[str, Any]]:
        self.asked.append({"do": do, **job})
        return [{"event": "cooled", "seconds": 12.0, "reason": "as cool as in the beginning"}]


def run(
    monkeypatch: pytest.MonkeyPatch, board: Board, *sessions: dict[str, Any], retries: int = 2
) -> tuple[list[attempts.Attempt], list[str]]:
    """The attempts of a device that yields these sessions one after the other."""
    waiting = iter(sessions)

    def take(*_: Any) -> measure.Session:
        before = state(temperatures_c={"thermal_zone0": 40.0 + len(board.asked)})
        made = {name: each.repetitions for name, each in next(waiting).items()}
        return measure.Session(made, {}, {**QUIET, "before": before}, {})

    monkeypatch.setattr(measure, "run", take)
    said: list[str] = []
    options = MeasureSection(retries=retries, cool_down_seconds=45)
    device: Any = board
    nothing: Any = None
    return list(attempts.run(options, device, nothing, VARIANTS, said.append)), said


def test_an_invalid_session_is_kept_and_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board()
    made, said = run(monkeypatch, board, BAD, BAD, GOOD)
    assert [(each.validity.state, each.repeated) for each in made] == [
        ("invalid", True),
        ("invalid", True),
        ("valid", False),
    ]
    assert made[0].measurements["dense"].repetitions == BAD["dense"].repetitions
    # Both times it is to become as cool as it was before the first session.
    aim = {"do": "cool_down", "deadline_s": 105, "lock": "lock", "seconds": 45.0}
    assert board.asked == 2 * [{**aim, "temperatures_c": {"thermal_zone0": 40.0}}]
    assert said[0].startswith("invalid: the board was throttled") and said[1].startswith(
        "cooled down for 12 s"
    )


def test_after_the_retries_the_last_counts_invalid_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = run(monkeypatch, Board(), BAD, BAD, retries=1)
    assert [(each.validity.state, each.repeated) for each in made] == [("invalid", True), ("invalid", False)]


@pytest.mark.parametrize(
    ("emulated", "first", "retries", "expected"),
    [(False, GOOD, 2, "valid"), (False, BAD, 0, "invalid"), (True, BAD, 2, "suspect")],
)
def test_one_session_is_enough(
    emulated: bool, first: dict[str, Any], retries: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board(emulated)
    made, _ = run(monkeypatch, board, first, retries=retries)
    assert [each.validity.state for each in made] == [expected] and not board.asked

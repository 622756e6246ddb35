"""What ends a command, and the exit code it ends with."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of every command."""

    PASS = 0
    GATE = 1
    USER = 2
    DEVICE = 3
    BUG = 4
    INTERRUPTED = 130


class UserError(Exception):
    """The user's input is at fault: exit code 2. Each of `problems` is one line: where, what, what to do."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class DataMisfit(UserError):
    """The data is not what the model takes or gives; what is raised in the end names the data, too."""


class Disagreement(Exception):
    """The sparse file does not answer as its dense twin: a failed run, exit code 1."""


def first_line(error: BaseException | None) -> str:
    """What an error of somebody else's says first, or its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

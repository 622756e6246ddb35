"""What can go wrong with a device or the way to it."""

from __future__ import annotations

from typing import Any


class TargetError(Exception):
    """A device, or the network to it, is at fault: exit code 3.

    `message` says what was expected and what was received, `remedy` what the reader can do.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message if not remedy else f"{message}; {remedy}")
        self.message = message
        self.remedy = remedy

    def __reduce__(self) -> Any:
        # Whatever its own kind is made of: it may have come about in another process.
        return _arrived, (type(self), self.args, self.__dict__)


class NotReached(TargetError):
    """Nothing answered where the device should be: what its file says of that, `when_unreachable`, may help."""


def _arrived(kind: type[TargetError], args: tuple[Any, ...], fields: dict[str, Any]) -> TargetError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(fields)
    return error

"""What can go wrong with a device or the way to it."""

from __future__ import annotations


class TargetError(Exception):
    """A device, or the network to it, is at fault: exit code 3.

    `message` says what was expected and what was received, `remedy` what the reader can do.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message if not remedy else f"{message}; {remedy}")
        self.message = message
        self.remedy = remedy


class NotReached(TargetError):
    """Nothing answered where the device should be: what its file says of that, `when_unreachable`, may help."""

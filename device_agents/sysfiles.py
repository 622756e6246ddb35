"""The small files in which the kernel tells its state (/proc, /sys), below one root."""

from __future__ import annotations

import glob
import os
import re

# A folder that stands for / where these files are looked for: made-up ones, in tests.
ROOT_VARIABLE = "EDGEPIPE_AGENT_ROOT"


def _below_root(path: str) -> str:
    return os.environ.get(ROOT_VARIABLE, "") + path


def read(path: str) -> str | None:
    """What the file says, without the line's end; None where there is none, or it may not be read."""
    try:
        with open(_below_root(path), encoding="utf-8", errors="replace") as stream:
            return stream.read().strip("\0 \n")
    except OSError:
        return None


def number(path: str) -> int | None:
    """The whole number in a file; None where there is none."""
    value = read(path)
    return int(value) if value is not None and re.fullmatch(r"-?\d+", value) else None


def write(path: str, value: str) -> None:
    """Write a value. Raises OSError where that is not permitted."""
    with open(_below_root(path), "w", encoding="ascii") as stream:
        stream.write(value)


def find(pattern: str) -> list[str]:
    """The paths that a pattern of the shell's matches, in order, as `read` takes them."""
    root = _below_root("")
    return sorted(path[len(root) :] for path in glob.glob(glob.escape(root) + pattern))

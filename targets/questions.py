"""Questions to whoever sits at the terminal. Who draws there meanwhile stands aside."""

from __future__ import annotations

import getpass
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_drawing: list[tuple[Callable[[], None], Callable[[], None]]] = []


def somebody_is_there() -> bool:
    """Whether a question would be seen, and could be answered. By the main thread alone: it is the one that Ctrl-C
    reaches, and no two questions stand on a terminal at once.
    """
    main = threading.current_thread() is threading.main_thread()
    return main and sys.stdin.isatty() and sys.stderr.isatty()


@contextmanager
def standing_aside(stop: Callable[[], None], go_on: Callable[[], None]) -> Iterator[None]:
    """While the block runs, a question calls `stop` before and `go_on` after it."""
    _drawing.append((stop, go_on))
    try:
        yield
    finally:
        _drawing.pop()


def ask(question: str, secret: bool = False) -> str:
    """The answer, without spaces around it if it is no secret; a secret is not shown as it is typed."""
    for stop, _ in _drawing:
        stop()
    try:
        if secret:
            return getpass.getpass(question)
        print(question, end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip()
    finally:
        for _, go_on in _drawing:
            go_on()

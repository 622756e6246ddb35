"""What a command says while it works: a live line on a terminal, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console

from targets.questions import standing_aside

Say = Callable[[str], None]


class Progress:
    """Told what happens; decides how to show it."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)

    def line(self, text: str) -> None:
        """Something that stays on the screen."""
        self.console.print(text, markup=False)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[Say]:
        """A piece of work; the block is handed a function to say how it goes on.

        On a terminal the latest word replaces the one before; elsewhere each is a line of its own.
        """
        started = time.monotonic()
        if self.console.is_terminal:
            status = self.console.status(f"{name} ...")
            with status, standing_aside(status.stop, status.start):
                yield lambda text: status.update(f"{name}: {text}")
        else:
            self.line(f"{name} ...")
            yield lambda text: self.line(f"{name}: {text}")
        self.line(f"{name}: done in {time.monotonic() - started:.1f} s")

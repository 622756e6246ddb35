"""What a command says while it works: live lines on a terminal, plain ones elsewhere; always on stderr."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from targets.questions import standing_aside

Say = Callable[[str], None]


class Progress:
    """Told what happens, by any thread; decides how to show it."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._lock = threading.RLock()
        self._under_way: dict[object, Spinner] = {}
        self._drawing = contextlib.ExitStack()

    def line(self, text: str) -> None:
        """Something that stays on the screen."""
        self.console.print(text, markup=False)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[Say]:
        """A piece of work; the block is handed a function to say how it goes on.

        On a terminal each step under way has a line, and its latest word replaces the one before; elsewhere each is
        a line of its own.
        """
        started = time.monotonic()
        if self.console.is_terminal:
            with self._live(name) as spinner:
                yield lambda text: spinner.update(text=Text(f"{name}: {text}"))
        else:
            self.line(f"{name} ...")
            yield lambda text: self.line(f"{name}: {text}")
        self.line(f"{name}: done in {time.monotonic() - started:.1f} s")

    @contextlib.contextmanager
    def _live(self, name: str) -> Iterator[Spinner]:
        """A line among those that are drawn; the first brings the drawing, the last ends it."""
        spinner, key = Spinner("dots", text=Text(f"{name} ...")), object()
        with self._lock:
            self._under_way[key] = spinner
            if len(self._under_way) == 1:
                live = Live(get_renderable=self._lines, console=self.console, transient=True)
                self._drawing.enter_context(live)
                self._drawing.enter_context(standing_aside(live.stop, live.start))
        try:
            yield spinner
        finally:
            with self._lock:
                del self._under_way[key]
                if not self._under_way:
                    self._drawing.close()

    def _lines(self) -> Group:
        return Group(*list(self._under_way.values()))

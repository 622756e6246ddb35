"""What a command prints on standard output: one JSON document, or what a person reads."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any


def show(document: Any, as_json: bool, *renderables: Any) -> None:
    """Print the JSON document, or what a person reads."""
    try:
        print(json.dumps(document, indent=1, default=str) if as_json else _rendered(renderables), flush=True)
    except BrokenPipeError:
        # Whoever reads, `head` for one, has read enough; how the command ends is not theirs to change.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _rendered(renderables: Sequence[Any]) -> str:
    from rich.console import Console

    console = Console(highlight=False)
    with console.capture() as captured:
        for renderable in renderables:
            # A sentence is one line, for whoever searches it; terminals break it themselves.
            console.print(renderable, soft_wrap=isinstance(renderable, str))
    return captured.get().rstrip("\n")

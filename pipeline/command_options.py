"""Options that several commands have in common."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[
    bool, typer.Option("--json", help="One JSON document on standard output, and nothing else there.")
]
HistoryUrl = Annotated[
    str,
    typer.Option(
        "--history", help="Its database, instead of $EDGEPIPE_HISTORY: sqlite:///FILE or postgresql://..."
    ),
]

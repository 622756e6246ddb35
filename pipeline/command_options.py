"""Options that several commands have in common."""

from __future__ import annotations

from pathlib import Path
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
Target = Annotated[str, typer.Option("--target", "-t", help="A target's name: rpi4 is targets/rpi4.yaml.")]
Host = Annotated[
    str, typer.Option("--host", help="[user@]host[:port], or adb's serial, instead of the target's own.")
]
Out = Annotated[Path, typer.Option("--out", help="The file to write.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="key=value, laid over the plan; may be repeated.")
]

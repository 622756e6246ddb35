"""Where the pipeline keeps what outlives a run: runtime bundles, emulated devices, cached artifacts."""

from __future__ import annotations

import os
from pathlib import Path


def state_folder() -> Path:
    """$EDGEPIPE_HOME, else ~/.cache/edgepipe."""
    configured = os.environ.get("EDGEPIPE_HOME")
    return Path(configured).expanduser().absolute() if configured else Path.home() / ".cache" / "edgepipe"


def expand(text: str) -> Path:
    """A path as a target file writes it: `~` and `${EDGEPIPE_HOME}` stand for the folders they name."""
    return Path(os.path.expanduser(text.replace("${EDGEPIPE_HOME}", str(state_folder()))))

"""Outcomes that outlive an interrupted bench: one JSON line each, in the state folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.engine import OWN_PACKAGES
from pipeline.source_digest import source_digest
from targets.places import state_folder


def remembered(suite: str, key: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The outcome that the suite's file has under `key`, or `measure()`, which is then added to it."""
    path = state_folder() / "benchmarks" / f"{suite}.jsonl"
    if path.exists():
        for line in path.read_text().splitlines():
            if (record := json.loads(line))["key"] == key:
                return dict(record["found"])
    found = measure()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps({"key": key, "found": found}) + "\n")
    return found


def code(*places: str) -> str:
    """A digest of these Python files of the project, or those in folders of it, with all that they import from it."""
    root = Path(__file__).absolute().parent.parent
    found = [root / place for place in places]
    files = sorted(path for each in found for path in (each.rglob("*.py") if each.is_dir() else [each]))
    return hashlib.sha256(source_digest(files, root, (*OWN_PACKAGES, "benchmarks")).encode()).hexdigest()[:16]

"""Outcomes that outlive an interrupted bench: one JSON line each, in the state folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

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

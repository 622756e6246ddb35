"""Which measurements are one series, and where in it a new segment begins."""

from __future__ import annotations

import hashlib
from typing import Any

from pipeline.artifacts import canonical_json
from pipeline.comparison import fingerprint
from pipeline.result import TargetResult

# Of a target's settings, those that decide how a model is run there.
SETTINGS = ("delegate", "xnnpack", "core", "threads", "python", "provision")


def identity(target: TargetResult) -> dict[str, Any]:
    """All that must stay the same for times to be comparable: the board, its firmware and kernel, the runtime with
    its version and delegate, the bundle, how many threads, the clock's governor.

    The model is not of it, nor what ran of it: a change there is what a series is to show.
    """
    found = fingerprint(target)
    state = target.environment.get("before") or {}
    found["firmware"] = state.get("firmware")
    found["transport"] = target.transport
    found |= {f"setting {key}": target.settings[key] for key in SETTINGS if key in target.settings}
    found |= {f"digest of {key}": value for key, value in target.digests.items() if key == "bundle"}
    return found


def segment(found: dict[str, Any]) -> str:
    """An identity as a digest: where it differs from that of the night before, a new segment begins."""
    return hashlib.sha256(canonical_json(found)).hexdigest()

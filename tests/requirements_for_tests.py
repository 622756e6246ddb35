"""What some tests need of the machine. On a developer's machine its absence is a skip, in CI a failure."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def skip_or_fail(reason: str) -> NoReturn:
    """Skip with the reason said; under CI=true a test that does not run is a test that fails."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"not run, and in CI everything runs: {reason}")
    pytest.skip(reason)

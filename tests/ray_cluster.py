"""A Ray cluster on this machine, each node a set of processes of its own. Without Ray a skip, in CI a failure."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tests.requirements_for_tests import skip_or_fail

ROOT = Path(__file__).parent.parent
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}
# A node that does not answer is gone sooner than usual.
SOON = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    # On a machine with much to do one that lives takes its time.
    "health_check_failure_threshold": 20,
}
# Ray's own, which are not ours to mend.
ITS_WARNINGS = [
    pytest.mark.filterwarnings(f"ignore::{kind}")
    for kind in (
        "ResourceWarning",
        "DeprecationWarning",
        "FutureWarning",
        "pytest.PytestUnraisableExceptionWarning",
    )
]


@contextmanager
def cluster() -> Iterator[Any]:
    """A cluster that this process is connected to, with its head only; `add_node(**NODE)` adds another."""
    try:
        import ray
        from ray.cluster_utils import Cluster
    except ModuleNotFoundError:
        skip_or_fail("the extra ray is not installed: pip install 'edgepipe[ray]'")
    # What its processes get from this one.
    ours = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    with mock.patch.dict(os.environ, ours):
        head = {**NODE, "include_dashboard": False, "_system_config": SOON}
        made = Cluster(initialize_head=True, head_node_args=head)
        ray.init(address=made.address, namespace="edgepipe", log_to_driver=False, configure_logging=False)
        yield made
        ray.shutdown()
        made.shutdown()

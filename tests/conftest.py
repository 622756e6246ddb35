from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from targets.places import state_folder

# A busy machine is no failure.
settings.register_profile("edgepipe", deadline=None)
settings.load_profile("edgepipe")

# Where tests run in the background interrupts are ignored, and what they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


# Begun first, so that none of them is what the others wait for in the end.
LONGEST = ("test_labgrid.py", "test_deploy.py", "test_nightly.py")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores to run on, for some tests wait: for a lab's clock, for what was started."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session", autouse=True)
def quiet_tensorflow() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state folder of the tests' own; what is fetched once a machine, runtimes and programs, is shared with yours."""
    folder = tmp_path_factory.mktemp("home")
    for name in ("bundles", "peers"):
        fetched = state_folder() / name
        fetched.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(fetched)
    before = os.environ.get("EDGEPIPE_HOME")
    os.environ["EDGEPIPE_HOME"] = str(folder)
    yield folder
    if before is None:
        del os.environ["EDGEPIPE_HOME"]
    else:
        os.environ["EDGEPIPE_HOME"] = before

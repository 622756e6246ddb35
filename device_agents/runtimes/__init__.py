"""The interpreters there are, one file each: `name-of-runtime` in a job is `name_of_runtime.py` here."""

from __future__ import annotations

import importlib
import pkgutil

from device_agents.failure import Failure
from device_agents.interpreter import Runtime


def names() -> list[str]:
    """The runtimes a job may name."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def find(name: str) -> Runtime:
    """The runtime of this name, imported. Raises Failure("job") for one unknown, ImportError for one not
    installed.
    """
    if name not in names():
        raise Failure("job", f"expected the runtime to be one of {', '.join(names())}. Received: {name!r}")
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    version, found = module.import_interpreter()
    return Runtime(name, version, found)

"""TensorFlow's own interpreter, `tf.lite`: nothing that is sent to a device, but what some have installed."""

from __future__ import annotations

import importlib.util
import sys
from importlib import import_module, metadata
from types import ModuleType

# What `import tensorflow` would run before its interpreter could be imported, for seconds and 300 MB.
PACKAGES = ("tensorflow", "tensorflow.lite", "tensorflow.python", "tensorflow.python.util")
WHEELS = ("tensorflow", "tensorflow-cpu", "tensorflow-aarch64", "tensorflow-cpu-aws")
INTERPRETER = "tensorflow.lite.python.interpreter"


def import_interpreter() -> tuple[str, ModuleType]:
    """The version that is installed, and the module of its interpreter, without the rest of TensorFlow where its files
    are laid out as they are today.
    """
    if INTERPRETER in sys.modules:
        return _version(), sys.modules[INTERPRETER]
    found = importlib.util.find_spec("tensorflow")
    if found is None or found.submodule_search_locations is None:
        raise ImportError("there is no tensorflow here")
    for name in PACKAGES:
        package = ModuleType(name)
        package.__path__ = [
            "/".join([place, *name.split(".")[1:]]) for place in found.submodule_search_locations
        ]
        sys.modules[name] = package
    try:
        module = import_module(INTERPRETER)
    except (ImportError, AttributeError):
        for name in [each for each in sys.modules if each.split(".")[0] == "tensorflow"]:
            del sys.modules[name]
        module = import_module(INTERPRETER)
    return _version(), module


def _version() -> str:
    for wheel in WHEELS:
        try:
            return metadata.version(wheel)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"

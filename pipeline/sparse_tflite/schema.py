"""TFLite's flatbuffer schema, as TensorFlow ships it, without importing TensorFlow."""

from __future__ import annotations

import functools
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flatbuffers

from pipeline.sparse_tflite.bounded import BoundedTable


@functools.cache
def schema() -> Any:
    """The module generated from TFLite's schema.fbs (enums, and the object API: `ModelT`, `TensorT`, ...).

    It reads through `BoundedTable`, see there.
    """
    found = importlib.util.find_spec("tensorflow")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("tensorflow is not installed")
    path = Path(found.submodule_search_locations[0]) / "lite" / "python" / "schema_py_generated.py"
    specification = importlib.util.spec_from_file_location("edgepipe_tflite_schema", path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    module.__dict__["flatbuffers"] = SimpleNamespace(
        **vars(flatbuffers) | {"table": SimpleNamespace(Table=BoundedTable)}
    )
    return module

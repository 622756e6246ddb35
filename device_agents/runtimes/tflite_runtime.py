"""tflite-runtime, the interpreter's package up to 2.14."""

from __future__ import annotations

from types import ModuleType


def import_interpreter() -> tuple[str, ModuleType]:
    """The version that is installed, and the module of its interpreter."""
    from tflite_runtime import __version__, interpreter

    return __version__, interpreter

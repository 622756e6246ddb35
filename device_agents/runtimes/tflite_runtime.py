"""tflite-runtime, the interpreter's package up to 2.14."""

from __future__ import annotations

from typing import Any, Callable


def import_interpreter() -> tuple[str, Callable[..., Any]]:
    """The version that is installed, and the type of its interpreter."""
    from tflite_runtime import __version__
    from tflite_runtime.interpreter import Interpreter

    return __version__, Interpreter

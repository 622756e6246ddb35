"""ai-edge-litert, its successor. `Interpreter` and not `CompiledModel`, which needs Arm's LSE instructions:
no Pi 4.
"""

from __future__ import annotations

from typing import Any, Callable


def import_interpreter() -> tuple[str, Callable[..., Any]]:
    """The version that is installed, and the type of its interpreter."""
    from ai_edge_litert import __version__
    from ai_edge_litert.interpreter import Interpreter

    return __version__, Interpreter

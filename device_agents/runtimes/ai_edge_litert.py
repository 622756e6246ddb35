"""ai-edge-litert, its successor. `Interpreter` and not `CompiledModel`, which needs Arm's LSE instructions:
no Pi 4.
"""

from __future__ import annotations

from types import ModuleType


def import_interpreter() -> tuple[str, ModuleType]:
    """The version that is installed, and the module of its interpreter."""
    from ai_edge_litert import __version__, interpreter

    return __version__, interpreter

"""`python -m benchmarks [SUITE]`: the figures that the documentation claims, measured anew."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path


def suites() -> list[str]:
    """The suites there are: the files of this folder."""
    found = pkgutil.iter_modules([str(Path(__file__).parent)])
    return sorted(each.name for each in found if not each.ispkg and not each.name.startswith("_"))


def main() -> int:
    """Run one suite, or every one."""
    wanted = sys.argv[1:] or suites()
    unknown = [name for name in wanted if name not in suites()]
    if unknown:
        print(f"no suite {', '.join(unknown)}; known: {', '.join(suites())}", file=sys.stderr)
        return 2
    missed = [goal for name in wanted for goal in importlib.import_module(f"benchmarks.{name}").run()]
    for goal in missed:
        print(f"missed: {goal}", file=sys.stderr)
    return 1 if missed else 0


sys.exit(main())

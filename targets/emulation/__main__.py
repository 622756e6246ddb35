"""`python -m targets.emulation up|down|status [NAME ...]`; without names, every device."""

from __future__ import annotations

import argparse
import sys

from targets import emulation
from targets.errors import TargetError


def main() -> int:
    """Exit code 0, or 3 when a device did not do as told or (status) is not up."""
    parser = argparse.ArgumentParser(prog="python -m targets.emulation", description="Emulated devices")
    parser.add_argument("action", choices=["up", "down", "status"])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(emulation.names())}")
    arguments = parser.parse_args()
    try:
        for name in arguments.names or emulation.names():
            if arguments.action == "up":
                emulation.up(name)
            elif arguments.action == "down":
                emulation.down(name)
            found = emulation.status(name)
            print(f"{name}: {found.state} ({found.detail})")
            if arguments.action == "status" and found.state != "up":
                return 3
    except TargetError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.remedy:
            print(f"  {error.remedy}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())

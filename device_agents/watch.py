"""What went on about one step, watched from outside the process that is timed."""

from __future__ import annotations

from typing import Any

from device_agents import load, speed
from device_agents.neighbours import Neighbours


class Watch:
    """From here to `seen`: nothing runs meanwhile, only two looks are taken."""

    def __init__(self) -> None:
        self._swapped = load.swapped_pages()
        self._neighbours = Neighbours()

    def seen(self) -> dict[str, Any]:
        """Pages swapped in and out and the busiest other programs meanwhile; throttle bits, load and pressure now."""
        swapped = load.swapped_pages()
        return {
            "neighbours": self._neighbours.busiest(),
            "swapped_pages": {way: count - self._swapped.get(way, count) for way, count in swapped.items()},
            "throttled": speed.throttled(),
            "load_average": load.average(),
            "pressure": load.pressure(),
        }

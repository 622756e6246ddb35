"""The farm's verdicts: false alarms in 100,000 series-nights in which nothing changed, and regressions that are found.

The noise is that of 600 recorded processes of a machine on which other programs ran, with drifts, steps and
autocorrelation of the devices, and heating within each session. Resumable: what a fleet showed is kept in the state
folder, under the digest of the code it was judged by.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from benchmarks._farm_nights import false_alarms, found_jumps, found_steps
from benchmarks._remembered import code, remembered

# The limits of suspicion were chosen on fleets below; these had no say in it.
FIRST = 10_000
FLEETS = 20
FALSE_ALARMS = 4
POWER_FLEETS = 80
POWER = 0.95


def run() -> list[str]:
    """Print the tables; returns the goals that were missed."""
    quiet = fleets("false alarms", FLEETS, false_alarms)
    steps = fleets("steps", POWER_FLEETS, found_steps)
    jumps = fleets("jumps", POWER_FLEETS, found_jumps)
    alarms = quiet["in the night"] + quiet["over nights"]
    table = Table("", "", title="verdicts")
    table.add_row("series-nights in which nothing changed", f"{quiet['nights']:,}")
    table.add_row("measured anew on a suspicion", f"{quiet['reruns']:,}")
    table.add_row("false alarms in the night", str(quiet["in the night"]))
    table.add_row("false alarms over nights", str(quiet["over nights"]))
    table.add_row("found: 1 % at CV 0.3 %, ten nights", f"{steps['found']} of {steps['regressed']}")
    table.add_row("found: 3 % at CV 1 %, one night", f"{jumps['found']} of {jumps['regressed']}")
    Console().print(table)
    missed = [f"{alarms} false alarms, goal {FALSE_ALARMS} or fewer"] if alarms > FALSE_ALARMS else []
    for name, found in (("1 % in ten nights", steps), ("3 % in one night", jumps)):
        share = found["found"] / found["regressed"]
        if share < POWER:
            missed.append(f"{name}: {share:.1%} found, goal {POWER:.0%} or more")
    return missed


def fleets(name: str, count: int, judge: Callable[[int], dict[str, int]]) -> Counter[str]:
    """What so many fleets showed in all."""
    made_by = code("benchmarks/farm.py", "pipeline/measurement")
    total: Counter[str] = Counter()
    for seed in range(FIRST, FIRST + count):
        total.update(remembered("farm", f"{made_by} {name} {seed}", lambda seed=seed: judge(seed)))
    return total

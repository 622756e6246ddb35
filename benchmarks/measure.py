"""Can an engineer bet on the agent's numbers? Beside LiteRT's own benchmark, known truths, and faults put in.

Everything runs on this machine as on any target: the agent as shipped, the sessions and the judging of every deploy.
The machine should have nothing else to do, for an hour. Resumable: each session's medians and verdict are kept in
the state folder, under the digest of the agent's code, of the judging, and of what is measured.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import _measure_faults as faults
from benchmarks import _measure_models as models
from benchmarks import _measure_peer as peer
from benchmarks import _measure_truths as truths
from benchmarks._measure_sessions import Ready, gathered, ready, short, this_machine
from pipeline.measurement.pairs import paired_test
from pipeline.plan import ControlsSection
from targets.device import Device

PEER_SESSIONS, PEER_RUNS, PEER_WIDTH = 40, 40, 0.02
# A session of ours is of two processes, so each has four; what drifts steadily hits both alike.
TURNS = (("theirs", "ours", "theirs", "theirs", "ours", "theirs"), ("ours", *4 * ("theirs",), "ours"))
SAME, SAME_PAIRS, HELD = 200, 4, (0.905, 0.995)
SLOWER, SLOWER_PAIRS, FOUND = 50, 12, 0.95
LONG_PAIRS, LONG_SECONDS = 40, 0.5
INJECTED = 20
CLEAN, MARKED = 500, 0.02
OVERHEAD_NS = 1000
NONE = "no session could be compared: the machine is too busy"
Record = dict[str, Any]


class Row(NamedTuple):
    """One line of the table."""

    case: str
    found: str
    goal: str
    held: bool


def run() -> list[str]:
    """Print the table; returns the goals that were missed."""
    programs = peer.environment()
    with this_machine() as device:
        beside = {name: ready(device, {name: content}) for name, content in models.beside_the_peer().items()}
        widths = {"plain": models.widened(models.WIDTH), "wider": models.widened(models.WIDER)}
        pair = ready(device, widths)
        rows = [*memory(device), overhead(device), *injected(device, pair, INJECTED)]
        sessions = beside_peer(beside, programs, PEER_SESSIONS)
        rows.append(peer_row(sessions, PEER_SESSIONS))
        same = same_file(pair, SAME)
        slower = gathered("3 % slower", SLOWER, lambda _: slowdown(pair, SLOWER_PAIRS))
        long = gathered("3 % slower, at length", 1, lambda _: slowdown(pair, LONG_PAIRS, LONG_SECONDS))
        rows += [same_row(same, SAME), slower_row(slower, SLOWER, long[-1]), spread_row(same)]
        rows.append(
            disturbed_row([each for one in sessions for ours in one["ours"].values() for each in ours])
        )
        clean = same + slower
        more = gathered(
            "clean", max(1, CLEAN - len(clean)), lambda _: pair.session(short(2), {"model": "plain"})
        )
        rows.append(clean_row(clean + more))
    return show(rows)


def show(rows: Sequence[Row]) -> list[str]:
    """Print the table; returns the rows that missed their goals."""
    table = Table("case", "found", "goal", title="the agent's numbers")
    for row in rows:
        table.add_row(row.case, row.found, row.goal)
    Console().print(table)
    return [f"{row.case}: {row.found}, goal {row.goal}" for row in rows if not row.held]


def memory(device: Device) -> list[Row]:
    """A row for each model that holds as much as is known."""
    rows = []
    for name, off in gathered("memory", 1, lambda _: {"off": truths.memory(device)})[0]["off"].items():
        times = truths.TRUTH[name]
        worst = max(off, key=lambda figure: max(map(abs, off[figure])) / truths.allowed(times[figure]))
        error = max(off[worst], key=abs)
        held = all(abs(each) <= truths.allowed(times[key]) for key, found in off.items() for each in found)
        told = f"{len(off)} figures; {worst} is farthest off, by {error / 1024:+,.0f} KiB"
        rows.append(Row(f"memory: {name} 100 MB", told, "within 1 % or 256 KiB", held))
    return rows


def overhead(device: Device) -> Row:
    """What the agent adds to an inference that takes no time."""
    found = gathered("overhead", 1, lambda _: {"ns": truths.overhead_ns(device)})[0]["ns"]
    told = f"{np.median(found):,.0f} ns in the median of {len(found)} processes, {max(found):,.0f} at most"
    return Row("added to each inference", told, f"below {OVERHEAD_NS:,} ns", max(found) < OVERHEAD_NS)


def injected(device: Device, pair: Ready, count: int) -> list[Row]:
    """A row for each kind of fault, put into so many sessions."""
    rows = [
        fault_row(name, fault.words, count, lambda fault=fault: faults.judged(device, fault).model_dump())
        for name, fault in faults.FAULTS.items()
    ]
    core = faults.a_core()
    pinned = short(2, controls=ControlsSection(cores=[core]))

    def beside_a_hog() -> Record:
        with faults.hog(core):
            return pair.session(pinned, {"model": "plain"})

    return [*rows, fault_row("CPU hog", faults.HOGGED, count, beside_a_hog)]


def fault_row(name: str, words: str, count: int, once: Callable[[], Record]) -> Row:
    # Each is marked invalid, or should be: none of them is to be compared, all count.
    found = gathered(f"fault: {name}", count, lambda _: {"verdict": once()})
    marked = sum(any(words in reason for reason in each["verdict"]["reasons"]) for each in found)
    return Row(f"fault: {name}", f"{marked} of {count} marked with this reason", "all", marked == count)


def beside_peer(beside: dict[str, Ready], programs: Path, count: int) -> list[Record]:
    """So many times every model by both, `ours` a session, `theirs` the medians in milliseconds."""
    return gathered("beside litert-benchmark", count, lambda number: both(beside, programs, number))


def both(beside: dict[str, Ready], programs: Path, number: int) -> Record:
    """Four processes of each program for each model, in turns."""
    found: Record = {"state": "valid", "ours": {}, "theirs": {}}
    for name, at in beside.items():
        ours: list[Record] = []
        theirs: list[float] = []
        for whose in TURNS[number % 2]:
            if whose == "ours":
                ours.append(at.session(short(2, max_seconds=0.4), {"model": name}))
            else:
                theirs.append(peer.median_ms(programs, at.files[name].path, PEER_RUNS))
        found["ours"][name], found["theirs"][name] = ours, theirs
        if any(each["state"] == "invalid" for each in ours):
            found["state"] = "invalid"
    return found


def peer_row(sessions: Sequence[Record], count: int) -> Row:
    """The ratio pooled over models, its interval from the sessions, of which `count` are to be compared."""
    case, goal = (
        "median over litert-benchmark's",
        f"1 within the interval, ±{PEER_WIDTH:.0%} or less, in {count}",
    )
    sessions = [each for each in sessions if each["state"] != "invalid"]
    if len(sessions) < 2:
        return Row(case, NONE, goal, False)
    names = sessions[0]["ours"]
    logs = np.array(
        [
            [
                np.log([one["medians_ns"]["model"] for one in each["ours"][name]]).mean()
                - np.log(np.array(each["theirs"][name]) * 1e6).mean()
                for name in names
            ]
            for each in sessions
        ]
    )
    test = paired_test(logs.mean(axis=1))
    ratio, low, high = (float(np.exp(each)) for each in (test.change, test.low, test.high))
    each = ", ".join(
        f"{name} {np.exp(found):.3f}" for name, found in zip(names, logs.mean(axis=0), strict=True)
    )
    told = f"{ratio:.4f} ({low:.4f} to {high:.4f}), {len(logs)} sessions; {each}"
    held = low <= 1 <= high and high - low <= 2 * PEER_WIDTH and len(logs) >= count
    return Row(case, told, goal, held)


def same_file(pair: Ready, count: int) -> list[Record]:
    """Sessions in which both variants are one file."""
    variants = {"model": "plain", "again": "plain"}
    return gathered("one file twice", count, lambda _: pair.session(short(SAME_PAIRS), variants))


def same_row(sessions: Sequence[Record], count: int) -> Row:
    """How often the interval of the ratio holds 1, in `count` sessions that can be compared."""
    ratios, goal = compared(sessions), f"{HELD[0]:.1%} to {HELD[1]:.1%} of {count}"
    if not ratios:
        return Row("one file twice", NONE, goal, False)
    held = sum(each["low"] <= 1 <= each["high"] for each in ratios)
    share = held / len(ratios)
    told = f"the interval holds 1 in {held} of {len(ratios)} ({share:.1%})"
    return Row("one file twice", told, goal, HELD[0] <= share <= HELD[1] and len(ratios) >= count)


def slowdown(pair: Ready, pairs: int, seconds: float | None = None) -> Record:
    """A session of the network and of one with a wider layer."""
    longer = {} if seconds is None else {"min_seconds": seconds, "max_seconds": seconds}
    return pair.session(short(pairs, **longer), {"plain": "plain", "wider": "wider"})


def slower_row(sessions: Sequence[Record], count: int, long: Record) -> Row:
    """How often a session finds the slowdown that the long one shows, in `count` that can be compared."""
    ratios, truth, goal = compared(sessions), long["ratio"], f"{FOUND:.0%} or more of {count}"
    if long["state"] == "invalid":
        return Row("slower, by how much is not known", NONE, goal, False)
    found = sum(each["low"] > 1 for each in ratios)
    size = f"{truth['value'] - 1:.1%} ({truth['low'] - 1:.1%} to {truth['high'] - 1:.1%})"
    told = f"found in {found} of {len(ratios)} sessions of {SLOWER_PAIRS} pairs" if ratios else NONE
    held = len(ratios) >= count and found >= FOUND * len(ratios)
    return Row(f"slower by {size}", told, goal, held)


def spread_row(sessions: Sequence[Record]) -> Row:
    """The machine's spread, without which the row before says little."""
    logs = [
        np.log(each["medians_ns"]["again"]) - np.log(each["medians_ns"]["model"])
        for each in sessions
        if each["state"] != "invalid"
    ]
    told = f"{np.sqrt(np.mean([np.var(each, ddof=1) for each in logs])):.2%}" if logs else NONE
    return Row("spread of pairs of one file", told, "stated", bool(logs))


def compared(sessions: Sequence[Record]) -> list[Record]:
    """The ratios of sessions that may be compared."""
    return [each["ratio"] for each in sessions if each["state"] != "invalid"]


def clean_row(sessions: Sequence[Record]) -> Row:
    """How many sessions into which nothing was put are marked, of a network that neighbours hardly disturb."""
    count = marked("clean", sessions)
    told = f"{count} of {len(sessions)} ({count / len(sessions):.1%})"
    return Row("clean sessions marked", told, f"{MARKED:.0%} or less", count <= MARKED * len(sessions))


def disturbed_row(sessions: Sequence[Record]) -> Row:
    """How many of the peer's models' are: stated, for where there are neighbours these are disturbed."""
    count = marked("beside litert-benchmark", sessions)
    return Row("beside litert-benchmark, marked", f"{count} of {len(sessions)}", "stated", True)


def marked(what: str, sessions: Sequence[Record]) -> int:
    """How many are; prints why."""
    found = [each for each in sessions if each["state"] != "valid"]
    for reason, count in Counter(kind(one) for each in found for one in each["reasons"]).most_common():
        print(f"{what}, and marked: {count} x {reason}")
    return len(found)


def kind(reason: str) -> str:
    """A reason without its figures and the variant's name."""
    return re.sub(r"[-+]?\d[\d,.]*", "#", re.sub(r"^(model|again|plain|wider): ", "", reason))

"""Figures whose truth is known: what a process holds, and what timing an inference that does nothing takes."""

from __future__ import annotations

import numpy as np

from benchmarks._measure_made_up import measured
from pipeline.plan import MeasureSection
from targets.device import Device

HELD = 100 * 1000 * 1000
# The first inference; more do no more. `mapped` is the model's own file, every page of it touched.
MAPS = """
import mmap
if not hasattr(self, 'mapped'):
    self.mapped = mmap.mmap(os.open(self.path, os.O_RDONLY), 0, prot=mmap.PROT_READ)
    self.touched = sum(self.mapped[::4096])
"""
ALLOCATES = f"""
if not hasattr(self, 'block'):
    self.block = bytearray(b'x') * {HELD}
"""
GIVES_BACK = f"""
if not hasattr(self, 'given_back'):
    self.given_back = len(bytearray(b'x') * {HELD})
"""
MODELS = {"maps": MAPS, "allocates": ALLOCATES, "both": MAPS + ALLOCATES, "gives back": GIVES_BACK}
# By how much each figure grows, in units of HELD.
TRUTH: dict[str, dict[str, int]] = {
    "maps": {"anonymous": 0, "file": 1, "rss": 1, "rss_by_page": 1, "pss": 1, "hwm": 1, "model": 1, "swap": 0},
    "allocates": {
        "anonymous": 1, "file": 0, "rss": 1, "rss_by_page": 1, "pss": 1, "hwm": 1, "model": 0, "swap": 0,
    },
    "both": {"anonymous": 1, "file": 1, "rss": 2, "rss_by_page": 2, "pss": 2, "hwm": 2, "model": 1, "swap": 0},
    # Of shared pages only some are its own: they are more when another process ends.
    "gives back": {"anonymous": 0, "file": 0, "rss": 0, "rss_by_page": 0, "hwm": 1, "model": 0, "swap": 0},
}  # fmt: skip
NEAR_SHARE, NEAR_BYTES = 0.01, 256 << 10


def memory(device: Device) -> dict[str, dict[str, list[int]]]:
    """By how many bytes each figure of the agent's is off for each of MODELS, in two processes of each."""
    session = measured(device, MODELS, _quick(), size=HELD)
    off: dict[str, dict[str, list[int]]] = {}
    for name, repetitions in session.repetitions.items():
        off[name] = {figure: [] for figure in TRUTH[name]}
        for course in (each.memory for each in repetitions):
            before, after = course.after_load.model_dump(), course.steady.model_dump()
            for figure, times in TRUTH[name].items():
                off[name][figure].append(after[figure] - before[figure] - times * HELD)
    return off


def allowed(times: int) -> float:
    """How many bytes a figure of so many times HELD may be off."""
    return max(NEAR_SHARE * times * HELD, NEAR_BYTES)


def overhead_ns(device: Device) -> list[float]:
    """What the agent reports for an inference that does nothing, the median of each process: all of it is its own."""
    session = measured(device, {"nothing": ""}, _quick(repetitions=6, min_samples=1000))
    return [float(np.median(each.samples_ns)) for each in session.repetitions["nothing"]]


def _quick(repetitions: int = 2, min_samples: int = 3) -> MeasureSection:
    return MeasureSection(
        repetitions=repetitions,
        warmup_runs=3,
        warmup_seconds=0,
        max_warmup_seconds=0,
        min_samples=min_samples,
        min_seconds=0,
        max_seconds=0,
        cold_starts=0,
    )

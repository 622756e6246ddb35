"""100,000 mutated .tflite files through all that reads, lints, rewrites and writes: no crash, no hang, no memory
beyond a bound.

Resumable: what was found of a thousand is kept in the state folder, under the digest of the code it was made by.
"""

from __future__ import annotations

import os
import resource
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks._mutations import healthy_files, mutant, reading
from benchmarks._remembered import code, remembered

MUTANTS = 100_000
AT_ONCE = 1_000
PROCESSES = 2
MEBIBYTES = 100
SECONDS = 10.0


def run() -> list[str]:
    """Print the table; returns the goals that were missed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    made_by = code("benchmarks/fuzz.py", "pipeline/sparse_tflite")
    missed, ended, slowest, grown = [], Counter[str](), 0.0, 0.0
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
        outcomes = list(pool.map(_thousand, [made_by] * (MUTANTS // AT_ONCE), range(0, MUTANTS, AT_ONCE)))
    for found in outcomes:
        ended.update(found["ended"])
        slowest, grown = max(slowest, found["slowest"]), max(grown, found["grown"])
        missed += found["failed"]
    if slowest > SECONDS:
        missed.append(f"a file took {slowest:.1f} s, goal {SECONDS:g} s or less")
    if grown > MEBIBYTES:
        missed.append(f"a thousand files took {grown:.0f} MiB of memory, goal {MEBIBYTES} MiB or less")
    table = Table("", "", title="mutated files")
    table.add_row("files", f"{sum(ended.values()):,}")
    table.add_row("refused with the reason", f"{ended['refused']:,}")
    table.add_row("read, and written again", f"{ended['read']:,}")
    table.add_row("failed", f"{ended['failed']:,}")
    table.add_row("slowest, seconds", f"{slowest:.2f}")
    table.add_row("memory that a thousand of them added at most, MiB", f"{grown:.0f}")
    Console().print(table)
    return missed


def _thousand(made_by: str, first: int) -> dict[str, Any]:
    return remembered("fuzz", f"{made_by} {first}", lambda: _found(first))


def _found(first: int) -> dict[str, Any]:
    ended, failed, slowest = Counter[str](), [], 0.0
    healthy_files()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in range(first, first + AT_ONCE):
        started = time.process_time()
        try:
            ended[reading(mutant(seed))] += 1
        except Exception as error:
            ended["failed"] += 1
            failed.append(f"mutant {seed}: {type(error).__name__}: {error}")
        slowest = max(slowest, time.process_time() - started)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"ended": dict(ended), "failed": failed, "slowest": slowest, "grown": grown}

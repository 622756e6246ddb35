"""The default plan: what pruning costs in accuracy over five splits, and what a cached deploy costs in time.

Resumable: the stages come from the cache once made.
"""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline import commands, deployment, engine, locate
from pipeline.progress import Progress

SPLITS = 5
MEAN_DROP_POINTS = 0.5
CACHED_SECONDS = 3.0


def run() -> list[str]:
    """Print the tables; returns the goals that were missed."""
    return [*_accuracy(), *_cached_deploy()]


def _accuracy() -> list[str]:
    table = Table(
        "split",
        "accuracy before",
        "after",
        "drop, points",
        title="digits CNN, hessian at 80 %, no fine-tuning",
    )
    drops = []
    for seed in range(SPLITS):
        plan, folder = locate.read_plan("pipeline.yaml", [f"data.seed={seed}", f"train.seed={seed}"])
        with commands.store().in_use() as store:
            report = engine.run_host_stages(plan, folder, store, Progress(), last="prune").report("prune")
        drop = 100 * (report["metric_before"] - report["metric_after"])
        drops.append(drop)
        table.add_row(
            str(seed), f"{report['metric_before']:.4f}", f"{report['metric_after']:.4f}", f"{drop:.2f}"
        )
    mean = sum(drops) / len(drops)
    table.add_row("mean", "", "", f"{mean:.2f}")
    Console().print(table)
    return (
        [f"mean drop {mean:.2f} points, goal {MEAN_DROP_POINTS} or less"] if mean > MEAN_DROP_POINTS else []
    )


def _cached_deploy() -> list[str]:
    plan, folder = locate.read_plan("pipeline.yaml")
    targets = {"local": locate.read_target("local")}
    store = commands.store()
    with store.in_use():
        deployment.run(plan, folder, targets, store, Path("runs"), Progress(quiet=True))
        started = time.monotonic()
        found = deployment.run(plan, folder, targets, store, Path("runs"), Progress(quiet=True))
        total = time.monotonic() - started
    measuring = found.targets["local"].seconds["measure"]
    beside = total - measuring
    table = Table("", "seconds", title="second deploy to this machine")
    for name, seconds in (("whole", total), ("measuring", measuring), ("all else", beside)):
        table.add_row(name, f"{seconds:.2f}")
    Console().print(table)
    return (
        [f"{beside:.2f} s beside measuring, goal {CACHED_SECONDS} or less"] if beside > CACHED_SECONDS else []
    )

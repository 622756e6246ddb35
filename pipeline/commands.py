"""What each command does, as a function of values; the command line only reads and shows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import deployment, engine, locate
from pipeline.artifacts import Store
from pipeline.errors import UserError
from pipeline.plan import PlanBase
from pipeline.progress import Progress
from pipeline.result import Result
from pipeline.suits import suit_of
from targets.device import open_device
from targets.places import state_folder
from targets.target import TargetBase


def store() -> Store:
    """The machine's one store."""
    return Store(state_folder() / "store")


def read_all(
    plan: str, settings: Sequence[str], names: Sequence[str], host: str
) -> tuple[PlanBase, Path, dict[str, TargetBase]]:
    """Plan and targets; every mistake in any of them is told at once, before any work."""
    problems: list[str] = []
    found: tuple[PlanBase, Path] | None = None
    targets: dict[str, TargetBase] = {}
    try:
        found = locate.read_plan(plan, settings)
    except UserError as error:
        problems += error.problems
    if not names:
        problems.append("--target: expected a name, received nothing; for example --target local")
    if host and len(names) > 1:
        problems.append(f"--host {host}: expected one target, received {len(names)}")
    for name in names:
        key = Path(name).stem
        if key in targets:
            problems.append(f"--target {name}: there is a target {key} in the list already")
        try:
            targets[key] = locate.read_target(name, found[1] if found else Path(plan).parent, host)
        except UserError as error:
            problems += error.problems
    if problems or found is None:
        raise UserError(*problems)
    return found[0], found[1], targets


def dry_run(plan: PlanBase, folder: Path, targets: Mapping[str, TargetBase]) -> dict[str, Any]:
    """What a deploy would do, step by step."""
    with store().in_use() as cache:
        suits = {name: suit_of(name, target) for name, target in targets.items()}
        known = [suit for suit in suits.values() if suit is not None and suit[1] is not None]
        stages = engine.what_would_run(plan, folder, cache, known)
    steps = [{"stage": stage, "from": source} for stage, source in stages]
    steps += [
        {"stage": f"{name}: encode", "from": "anew, or from cache: the device tells its runtime and core"}
        for name, suit in suits.items()
        if suit not in known
    ]
    steps += [
        {"stage": f"{target}: {stage}", "from": "anew"}
        for target in targets
        for stage in ("deploy", "measure", "judge", "install")
    ]
    return {"plan": plan.model_dump(mode="json"), "steps": [*steps, {"stage": "report", "from": "anew"}]}


def deploy(plan: PlanBase, folder: Path, targets: dict[str, TargetBase], progress: Progress) -> Result:
    """One deploy into `runs/` of the working folder, and into the history; the cache is brought under its cap at the
    end.
    """
    written: list[Result] = []
    try:
        with cache_of(plan.store.max_mebibytes) as cache:
            return deployment.run(plan, folder, targets, cache, Path("runs"), progress, written.append)
    finally:
        if written:
            _enter_history(written[-1], progress)


def _enter_history(found: Result, progress: Progress) -> None:
    """The run is written: that its figures cannot be in the history, too, takes nothing from it."""
    from pipeline.history.record import record

    try:
        record(found)
    except UserError as error:
        progress.line(f"not in the history: {error}\nlater: edgepipe history add runs/{found.id}")


@contextlib.contextmanager
def cache_of(max_mebibytes: int) -> Iterator[Store]:
    """The store, held against eviction; brought under its cap in the end."""
    cache = store()
    try:
        with cache.in_use():
            yield cache
    finally:
        cache.shrink(max_mebibytes << 20)


def status(name: str, target: TargetBase) -> dict[str, Any]:
    """What is installed on a device, and whether the file there still has the hash its manifest says."""
    with open_device(name, target) as device:
        found = device.ask("status", install_path=target.install_path)[-1]
    return {"target": name} | {key: found[key] for key in ("installed", "manifest", "model_ok")}


def rollback(name: str, target: TargetBase) -> dict[str, Any]:
    """Switch the version before the installed one in again."""
    with open_device(name, target) as device:
        event = device.rollback()
    return {"target": name, "manifest": event["manifest"], "after_install": event["restart"]}


def clean(name: str, target: TargetBase, *, installed: bool) -> dict[str, Any]:
    """Remove from a device all that is ours, with `installed` the installed model, too."""
    with open_device(name, target) as device:
        return {"target": name, "removed": device.clean(installed=installed)}

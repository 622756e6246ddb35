"""A nightly file with all that it names: plans, models, targets; every mistake in any of them told at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import yaml

from pipeline import locate
from pipeline.errors import UserError
from pipeline.farm.case import Thresholds
from pipeline.farm.nightly_plan import NightlyPlan, PlanEntry
from pipeline.plan import PlanBase
from pipeline.strict_yaml import read_yaml, suggest
from targets.target import TargetBase


@dataclass(frozen=True)
class Entry:
    """A plan of the night, under the name of its series; `folder` is what its paths are relative to."""

    listed: PlanEntry
    plan: PlanBase
    folder: Path
    thresholds: Thresholds


@dataclass(frozen=True)
class Place:
    """A target of the night; `tag` is the one by which it was found, empty for one that is named."""

    target: TargetBase
    tag: str = ""


@dataclass(frozen=True)
class NightlyFile:
    """`entries` by the plan's name, `places` by the target's; every entry is measured in every place. `unreadable` are
    the targets that may have one of the tags, and why nobody knows."""

    path: Path
    says: NightlyPlan
    entries: dict[str, Entry]
    places: dict[str, Place]
    unreadable: dict[str, str] = field(default_factory=dict)


def read(path: Path) -> NightlyFile:
    """The file at `path`. Raises `UserError`."""
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; two lines are one: plans: [{{plan: pipeline.yaml}}] and targets: [local]"
        )
    says = read_yaml(path, NightlyPlan)
    problems: list[str] = []
    entries = _entries(says, path, problems)
    places, unreadable = _places(says, path, problems)
    if not places and not problems:
        # Nothing but what cannot be read.
        problems += unreadable.values()
    if problems:
        raise UserError(*problems)
    return NightlyFile(path, says, entries, places, unreadable)


def _entries(says: NightlyPlan, path: Path, problems: list[str]) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for number, listed in enumerate(says.plans):
        where = f"{path}: plans[{number}]"
        beside = path.parent / listed.plan
        place = str(beside) if beside.is_file() else listed.plan
        try:
            for settings in _settings(listed, locate.read_plan(place, listed.set)[0].name):
                plan, folder = locate.read_plan(place, [*listed.set, *settings])
                if plan.name in found:
                    problems.append(f"{where}: there is a plan {plan.name} already; set: [name=ANOTHER]")
                plan = plan.model_copy(
                    update={"measure": plan.measure.model_copy(update={"repetitions": says.repetitions})}
                )
                found[plan.name] = Entry(listed, plan, folder, listed.thresholds or says.thresholds)
        except UserError as error:
            problems += [f"{where}: {problem}" for problem in error.problems]
    return found


def _settings(listed: PlanEntry, name: str) -> list[list[str]]:
    """What is laid over the plan, once for each model."""
    if not listed.models:
        return [[]]
    return [[f"name={name}-{key}", f"model.source={source}"] for key, source in listed.models.items()]


def _places(says: NightlyPlan, path: Path, problems: list[str]) -> tuple[dict[str, Place], dict[str, str]]:
    found: dict[str, Place] = {}
    for name in says.targets:
        if Path(name).stem in found:
            problems.append(f"{path}: targets: {name} is named twice")
        try:
            found[Path(name).stem] = Place(locate.read_target(name, path.parent))
        except UserError as error:
            problems += [f"{path}: targets: {problem}" for problem in error.problems]
    unreadable: dict[str, str] = {}
    known = {tag for place in found.values() for tag in place.target.tags}
    for name, file in locate.target_files(path.parent).items() if says.tags else ():
        if name in found:
            continue
        try:
            target = locate.read_target(str(file))
        except UserError as error:
            if not _says_other_tags(file, says.tags):
                unreadable[name] = error.problems[0]
            continue
        known |= set(target.tags)
        tag = next((tag for tag in says.tags if tag in target.tags), None)
        if tag is not None:
            found[name] = Place(target, tag)
    # A tag that nobody has may be that of a file that cannot be read, which is missed for itself.
    if not set(unreadable) - set(says.retired):
        problems += [
            f"{path}: tags: no target has the tag {tag}; {suggest(tag, sorted(known))}"
            for tag in says.tags
            if tag not in known
        ]
    return found, unreadable


def _says_other_tags(file: Path, tags: tuple[str, ...]) -> bool:
    """Is a file with mistakes for all that plainly none of the night's?"""
    try:
        found = yaml.safe_load(file.read_bytes())
    except (OSError, ValueError, yaml.YAMLError):
        return False
    said = found.get("tags") if isinstance(found, dict) else None
    return isinstance(said, list) and bool(said) and not set(map(str, said)) & set(tags)

"""The nights that were, and which series of the last one have vanished: missing data is an alarm."""

from __future__ import annotations

from pydantic import ValidationError
from sqlalchemy import insert, select

from pipeline.errors import UserError
from pipeline.farm.night import KnownJob, KnownNight, Night
from pipeline.farm.nightly_file import NightlyFile
from pipeline.history.database import reading, writing
from pipeline.history.tables import nights


def remember(found: Night, url: str | None) -> None:
    """Enter a night. Raises `UserError` where the history cannot be had."""
    row = {
        "id": found.id,
        "name": found.nightly,
        "created": found.created,
        "exit_code": found.exit_code,
        "document": found.model_dump_json(),
    }
    with writing(url) as connection:
        connection.execute(insert(nights).values(row))


def last(name: str, url: str | None) -> KnownNight | None:
    """The last night of a nightly file's name; None before the first.

    Raises `UserError`, also for one that cannot be read: what vanished since would not be missed.
    """
    newest = select(nights.c.id, nights.c.document).where(nights.c.name == name)
    newest = newest.order_by(nights.c.created.desc(), nights.c.id.desc()).limit(1)
    with reading(url) as connection:
        row = connection.execute(newest).one_or_none()
    if row is None:
        return None
    try:
        return KnownNight.model_validate_json(row.document)
    except ValidationError:
        raise UserError(
            f"the night {row.id} in the history cannot be read by this edgepipe; install the one that wrote it, "
            "or give the nightly file another name"
        ) from None


def vanished(nightly: NightlyFile, before: KnownNight | None) -> list[tuple[KnownJob, str]]:
    """The jobs of the night before that nobody took out of the nightly file and that are not there any more; why.

    They are told every night until the file names them under `retired`.
    """
    found = []
    for job in before.jobs if before else ():
        series = f"{job.plan}/{job.target}"
        if not {job.plan, job.target, series} & set(nightly.says.retired) and (why := _why(job, nightly)):
            found.append((job, f"{why}; if that is meant, write retired: [{series}]"))
    return found


def unheard_of(nightly: NightlyFile) -> dict[tuple[str, str], str]:
    """The series, (plan, target), that the nightly file itself tells of and that are not measured; why.

    No night before is needed for it: they are of a target whose file cannot be read, or have a baseline.
    """
    found = {(plan, name): why for name, why in nightly.unreadable.items() for plan in nightly.entries}
    for series in nightly.says.baselines:
        plan, _, target = series.partition("/")
        if plan not in nightly.entries or target not in nightly.places:
            found.setdefault(
                (plan, target), f"it has a baseline in {nightly.path}, and is not measured any more"
            )
    return {
        (plan, target): f"{why}; if that is meant, write retired: [{plan}/{target}]"
        for (plan, target), why in found.items()
        if not {plan, target, f"{plan}/{target}"} & set(nightly.says.retired)
    }


def _why(job: KnownJob, nightly: NightlyFile) -> str | None:
    if job.plan not in nightly.entries:
        files = {entry.listed.plan for entry in nightly.entries.values()}
        return f"{job.plan_file} is no longer a plan of this name" if job.plan_file in files else None
    if job.target in nightly.places or job.tag not in nightly.says.tags:
        return None
    return nightly.unreadable.get(job.target, f"no target of this name has the tag {job.tag} any more")

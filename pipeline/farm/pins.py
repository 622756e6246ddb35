"""Baselines and canaries: files pinned by their digests, kept for good, and accepted by somebody for a reason."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sqlalchemy import insert, select

from pipeline import atomic, result
from pipeline.artifacts import Artifact, Store, canonical_json, file_digest
from pipeline.errors import UserError
from pipeline.farm import night
from pipeline.farm.nightly_file import NightlyFile
from pipeline.history.database import reading, writing
from pipeline.history.tables import baselines
from pipeline.one_target import now
from pipeline.yaml_edit import set_entries
from targets.places import state_folder

# In a night's folder: its candidates and canaries, so that they can be accepted wherever the folder is.
FILES = "files"


@dataclass(frozen=True)
class Acceptance:
    """A file of a run that becomes the baseline of a series; `canary` is the one that series has from then on."""

    plan: str
    target: str
    run: str
    digest: str
    canary: str

    @property
    def series(self) -> str:
        return f"{self.plan}/{self.target}"


def pinned() -> Store:
    """Where accepted files are kept; unlike the cache, nothing ever leaves it by itself."""
    return Store(state_folder() / "pinned")


def find(digest: str, what: str, cache: Store, *folders: Path) -> Artifact:
    """A pinned file, or one that lies in a folder under its digest, or that the cache still has. Raises `UserError`."""
    kept = pinned()
    if (found := kept.get("tflite", digest)) is not None:
        return found
    for folder in folders:
        path = folder / f"{digest}.tflite"
        if path.is_file() and file_digest(path) == digest:
            return Artifact(digest, "tflite", path)
    if (found := cache.get("tflite", digest)) is not None:
        return found
    raise UserError(
        f"{what}: the file with the sha256 {digest} is not on this machine; copy it from the one where it was "
        f"accepted, into {kept.path_of('tflite', digest)}, or accept another: edgepipe baseline accept"
    )


def beside(nightly: NightlyFile) -> Path:
    """The folder that holds accepted files for machines that keep nothing of their own, where there is one."""
    return nightly.path.parent / "baselines"


def leave(file: Artifact, folder: Path) -> None:
    """Put a copy of a file into a folder, under its digest."""
    path = folder / f"{file.digest}.tflite"
    if not path.is_file():
        atomic.write(path, file.path.read_bytes())


def candidates(run: Path, nightly: NightlyFile) -> list[Acceptance]:
    """What the run of a night or a deploy has for the series of a nightly file. Raises `UserError` where none."""
    found = _of_night(night.load(run)) if (run / "night.json").is_file() else _of_deploy(run, nightly)
    canaries = nightly.says.canaries
    known = [
        Acceptance(each.plan, each.target, each.run, each.digest, canaries.get(each.plan, each.canary))
        for each in found
        if each.plan in nightly.entries and each.target in nightly.places
    ]
    if not known:
        wanted = ", ".join(f"{plan}/{target}" for plan in nightly.entries for target in nightly.places)
        raise UserError(
            f"{run}: has no valid measurement of any series of {nightly.path}; expected one of {wanted}"
        )
    return known


def accept(
    chosen: Sequence[Acceptance],
    run: Path,
    nightly: NightlyFile,
    owner: str,
    reason: str,
    cache: Store,
    url: str | None,
) -> None:
    """Pin files of the `run`, and write their digests into the nightly file and the history. Raises `UserError`."""
    keep(chosen, run, nightly, cache)
    at = now()
    text = nightly.path.read_text(encoding="utf-8")
    entries = {
        each.series: f'{{digest: "{each.digest}", owner: {json.dumps(owner, ensure_ascii=False)}}}'
        for each in chosen
    }
    text = set_entries(text, "baselines", entries, str(nightly.path))
    text = set_entries(
        text, "canaries", {each.plan: f'"{each.canary}"' for each in chosen}, str(nightly.path)
    )
    with writing(url) as connection:
        for each in chosen:
            row = {**asdict(each), "at": at, "name": nightly.says.name, "owner": owner, "reason": reason}
            connection.execute(
                insert(baselines).values(id=hashlib.sha256(canonical_json(row)).hexdigest(), **row)
            )
        # Last, so that what is in the file is in the history.
        atomic.write(nightly.path, text.encode())


def keep(chosen: Sequence[Acceptance], run: Path, nightly: NightlyFile, cache: Store) -> None:
    """Pin files of the `run`. Raises `UserError`."""
    for each in chosen:
        _keep(each.digest, f"the candidate of {each.series}", cache, run, nightly)
        _keep(each.canary, f"the canary of {each.plan}", cache, run, nightly)


def accepted(url: str | None) -> list[dict[str, str]]:
    """All that was ever accepted, the newest last."""
    with reading(url) as connection:
        found = connection.execute(select(baselines).order_by(baselines.c.at, baselines.c.id))
        return [dict(row) for row in found.mappings()]


def unrecorded(nightly: NightlyFile, url: str | None) -> list[str]:
    """The series whose baseline was written into the nightly file by hand, or accepted in another history."""
    with reading(url) as connection:
        rows = connection.execute(select(baselines.c.plan, baselines.c.target, baselines.c.digest))
        known = {(f"{row.plan}/{row.target}", row.digest) for row in rows}
    return [name for name, each in nightly.says.baselines.items() if (name, each.digest) not in known]


def _keep(digest: str, what: str, cache: Store, run: Path, nightly: NightlyFile) -> None:
    """Take a file into the store that keeps it, and beside the nightly file where there is a folder for it."""
    kept, folder = pinned(), beside(nightly)
    found = find(digest, what, cache, run / FILES, folder)
    if found.path != kept.path_of("tflite", digest):
        kept.put("tflite", found.path.read_bytes())
    if folder.is_dir():
        leave(found, folder)


def _of_night(found: night.Night) -> list[Acceptance]:
    return [
        Acceptance(
            job.plan,
            job.target,
            job.run or "",
            job.variants["candidate"].digest,
            job.variants["canary"].digest,
        )
        for job in found.jobs
        if job.ended == "done" and job.validity is not None and job.validity.state != "invalid"
    ]


def _of_deploy(run: Path, nightly: NightlyFile) -> list[Acceptance]:
    found = result.load(run)
    entry = nightly.entries.get(found.name)
    return [
        Acceptance(
            found.name,
            name,
            found.id,
            target.encoded.variants[entry.listed.candidate].digest,
            target.encoded.variants["baseline"].digest,
        )
        for name, target in found.targets.items()
        if entry and target.encoded and target.validity and target.validity.state != "invalid"
    ]

"""What of a job is done at its device, by this machine or by another that attends to it: its files go along."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.artifacts import Artifact
from pipeline.at_once import AtOnce
from pipeline.farm.heart import Hold
from pipeline.one_target import Turns, take_turns
from pipeline.progress import Progress
from pipeline.stages.measure import Session
from targets.device import DeviceBusy
from targets.errors import TargetError


@dataclass(frozen=True)
class Taken:
    """What is `known` of the device, and what it `said`, or what it did wrong."""

    known: dict[str, Any]
    said: Session | TargetError


@dataclass(frozen=True)
class Errand:
    """A session on a device that is held. Pickled, it takes the files along, and leaves what is this process's own: its
    turns, its progress, and `known`, which holds at any moment what is known."""

    turns: Turns
    at_once: AtOnce
    progress: Progress
    known: dict[str, Any]

    def __call__(self, hold: Hold) -> Taken:
        """Raises `DeviceBusy`."""
        turns = self.turns
        try:
            # A device that is no longer ours is left at once.
            with self.at_once.device(turns.name, turns.target, hold.lease.fence, hold.ending) as device:
                _, session = take_turns(device, turns, self.at_once, self.progress, self.known)
        except DeviceBusy:
            raise
        except TargetError as error:
            return Taken(self.known, error)
        return Taken(self.known, session)

    def __reduce__(self) -> Any:
        files = [*self.turns.variants.values(), *self.turns.inputs.values()]
        return _Arrived, (self.turns, {file.digest: file.path.read_bytes() for file in files})


@dataclass(frozen=True)
class _Arrived:
    """An errand on another machine, with its files by digest."""

    turns: Turns
    files: dict[str, bytes]

    def __call__(self, hold: Hold) -> Taken:
        with tempfile.TemporaryDirectory() as folder:
            variants, inputs = (
                self._placed(files, Path(folder)) for files in (self.turns.variants, self.turns.inputs)
            )
            turns = replace(self.turns, variants=variants, inputs=inputs)
            return Errand(turns, AtOnce(), Progress(quiet=True), {})(hold)

    def _placed(self, files: Mapping[str, Artifact], folder: Path) -> dict[str, Artifact]:
        """The same files where they now lie."""
        placed = {}
        for name, file in files.items():
            path = folder / f"{file.digest}{file.path.suffix}"
            path.write_bytes(self.files[file.digest])
            placed[name] = replace(file, path=path)
        return placed

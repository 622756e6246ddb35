"""Artifacts and the content-addressed store that keeps them, with the record of how each came to be."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import atomic

ENDINGS = {
    "keras": ".keras",
    "dataset": ".npz",
    "masks": ".npz",
    "tflite": ".tflite",
    "json": ".json",
    "array": ".npy",
}


@dataclass(frozen=True)
class Artifact:
    """A file, or an input's folder, with a meaning; two artifacts with one digest hold the same."""

    digest: str
    kind: str
    path: Path

    def read_json(self) -> Any:
        """The content of a `json` artifact."""
        return json.loads(self.path.read_bytes())


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """sha256 over the names and bytes of every file in a folder and below it, in hex."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{file_digest(path)}\n".encode())
    return digest.hexdigest()


def canonical_json(value: Any) -> bytes:
    """One byte string for one value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


class Store:
    """`objects/` holds files under their sha256, `records/` what a stage made of which inputs.

    Any number of processes may use one store: files appear whole, by renaming, and only a process that finds
    itself alone removes any.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextlib.contextmanager
    def in_use(self) -> Iterator[Store]:
        """Hold the store's files against eviction while the block runs."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            yield self

    @contextlib.contextmanager
    def new(self, kind: str) -> Iterator[Path]:
        """A temporary file to write; move it into the store with `put_file`. Removed at the end."""
        path = self.root / "objects" / f"{atomic.TEMPORARY}{os.getpid()}-{time.monotonic_ns()}{ENDINGS[kind]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def put_file(self, kind: str, path: Path) -> Artifact:
        """Take the file at `path` (one of `new`'s) into the store."""
        artifact = self._artifact(file_digest(path), kind)
        with atomic.new_file(artifact.path) as temporary:
            path.replace(temporary)
        return artifact

    def put(self, kind: str, content: bytes) -> Artifact:
        """Keep `content`."""
        artifact = self._artifact(hashlib.sha256(content).hexdigest(), kind)
        if not artifact.path.is_file() or file_digest(artifact.path) != artifact.digest:
            atomic.write(artifact.path, content)
        return artifact

    def put_json(self, value: Any) -> Artifact:
        """Keep a JSON value."""
        return self.put("json", canonical_json(value))

    def get(self, kind: str, digest: str) -> Artifact | None:
        """What is kept under this digest, verified; None when it is missing or damaged."""
        artifact = self._artifact(digest, kind)
        try:
            whole = file_digest(artifact.path) == digest
            os.utime(artifact.path)
        except OSError:
            return None
        return artifact if whole else None

    def find(self, stage: str, key: str) -> dict[str, Artifact] | None:
        """What `stage` made under `key`, each file verified; None when any of it is missing or damaged."""
        record = self._record(stage, key)
        try:
            outputs = json.loads(record.read_bytes())["outputs"]
            found = {name: self._artifact(item["digest"], item["kind"]) for name, item in outputs.items()}
            if any(file_digest(artifact.path) != artifact.digest for artifact in found.values()):
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        for path in (record, *(artifact.path for artifact in found.values())):
            with contextlib.suppress(OSError):
                os.utime(path)
        return found

    def remember(
        self, stage: str, key: str, outputs: Mapping[str, Artifact], provenance: Mapping[str, Any]
    ) -> None:
        """Record that `stage` made `outputs` under `key`; `provenance` is everything the key was made of."""
        made = {
            name: {"digest": artifact.digest, "kind": artifact.kind} for name, artifact in outputs.items()
        }
        record = {
            **provenance,
            "outputs": made,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        atomic.write(self._record(stage, key), json.dumps(record, indent=1, sort_keys=True).encode())

    def shrink(self, max_bytes: int) -> int:
        """Remove what was used longest ago until `max_bytes` hold; returns the bytes removed.

        Does nothing while any process, this one included, uses the store: the last one out tidies up.
        """
        with (self.root / "lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return 0
            return self._remove_oldest(max_bytes)

    def _remove_oldest(self, max_bytes: int) -> int:
        removed = 0
        for left_over in self.root.rglob(f"{atomic.TEMPORARY}*"):
            left_over.unlink(missing_ok=True)
        files = [
            (path.stat(), path) for path in self.root.rglob("*") if path.is_file() and path.name != "lock"
        ]
        total = sum(status.st_size for status, _ in files)
        for status, path in sorted(files, key=lambda item: item[0].st_mtime_ns):
            if total - removed <= max_bytes:
                break
            path.unlink(missing_ok=True)
            removed += status.st_size
        return removed

    def path_of(self, kind: str, digest: str) -> Path:
        """Where a file lies, if it is there."""
        return self._artifact(digest, kind).path

    def _artifact(self, digest: str, kind: str) -> Artifact:
        return Artifact(digest, kind, self.root / "objects" / digest[:2] / f"{digest}{ENDINGS[kind]}")

    def _record(self, stage: str, key: str) -> Path:
        return self.root / "records" / stage / f"{key}.json"

"""A folder for devices as one archive, named by its content so that it travels once, and kept on the host."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import tarfile
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from targets.errors import TargetError


@dataclass(frozen=True)
class Bundle:
    """An archive on the host; `digest` is of the tree that it holds, see `tree_digest`."""

    archive: Path
    digest: str


# Many devices of a kind want the same one at once: it is made once.
_making = threading.Lock()


def kept(folder: Path, fill: Callable[[Path], None]) -> Bundle:
    """What lies in `folder`; where there is nothing, or something damaged, `fill` makes the tree anew."""
    with _making:
        return _kept(folder, fill)


def _kept(folder: Path, fill: Callable[[Path], None]) -> Bundle:
    found = _read(folder)
    if found is None:
        shutil.rmtree(folder, ignore_errors=True)
        _build(folder, fill)
        found = _read(folder)
    if found is None:
        raise TargetError(f"the bundle in {folder} is damaged", "remove the folder and run again")
    return found


def tree_digest(folder: Path) -> str:
    """sha256 over `path NUL sha256 LF` of each file below `folder`, sorted; the device computes the same."""
    digest = hashlib.sha256()
    for path in files(folder):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def files(folder: Path) -> list[Path]:
    """The files below a folder that count, sorted by their paths in it."""
    found = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _read(folder: Path) -> Bundle | None:
    """The bundle in `folder`, its archive verified; None when there is none, or a damaged one."""
    try:
        about = json.loads((folder / "bundle.json").read_bytes())
        with (folder / "bundle.tar.gz").open("rb") as archive:
            whole = hashlib.file_digest(archive, "sha256").hexdigest() == about["archive"]
        return Bundle(folder / "bundle.tar.gz", about["digest"]) if whole else None
    except (OSError, ValueError, KeyError):
        return None


def _build(folder: Path, fill: Callable[[Path], None]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part-") as temporary:
        tree, made = Path(temporary, "tree"), Path(temporary, "made")
        fill(tree)
        made.mkdir()
        _pack(tree, made / "bundle.tar.gz")
        about = {
            "digest": tree_digest(tree),
            "archive": hashlib.sha256((made / "bundle.tar.gz").read_bytes()).hexdigest(),
            "packages": sorted(path.name for path in tree.rglob("*.dist-info")),
        }
        (made / "bundle.json").write_text(json.dumps(about, indent=1))
        try:
            os.rename(made, folder)
        except OSError:
            # Another process was faster; what it built serves as well.
            if _read(folder) is None:
                raise


def _pack(tree: Path, archive: Path) -> None:
    with (
        archive.open("wb") as raw,
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for path in files(tree):
            entry = tarfile.TarInfo(path.relative_to(tree).as_posix())
            entry.size = path.stat().st_size
            runs = path.suffix == ".so" or ".so." in path.name or path.stat().st_mode & 0o100
            entry.mode = 0o755 if runs else 0o644
            with path.open("rb") as content:
                tar.addfile(entry, content)

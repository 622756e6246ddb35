"""What a piece of Python depends on: the digest of a file and of all its local imports."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from pipeline.errors import UserError


def source_digest(paths: Iterable[Path], root: Path, packages: Collection[str] | None = None) -> str:
    """sha256 over the files `paths` and what they import, however far, below `root`; see `local_sources`."""
    digest = hashlib.sha256()
    for path in sorted(local_sources(paths, root, packages)):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(root).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def local_sources(paths: Iterable[Path], root: Path, packages: Collection[str] | None = None) -> set[Path]:
    """`paths` and the files below `root` that they import, directly or not, at the top or inside functions.

    Only those of `packages` where given: `root` may be a folder that holds every installed package.
    """
    found: set[Path] = set()
    waiting = [path.absolute() for path in paths]
    root = root.absolute()
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        for name in imported_modules(path, root):
            if packages is None or name.split(".")[0] in packages:
                waiting += _files_of(name, root)
    return found


def imported_modules(path: Path, root: Path) -> Iterator[str]:
    """The dotted names that the file `path` imports, relative ones resolved against `root`."""
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except SyntaxError as error:
        raise UserError(f"{path}:{error.lineno}: not Python: {error.msg}") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = path.parent.relative_to(root).parts if path.is_relative_to(root) else ()
                package = package[: len(package) - (node.level - 1)]
                base = ".".join([*package, *([base] if base else [])])
            if base:
                yield base
            yield from (f"{base}.{alias.name}" if base else alias.name for alias in node.names)


def _files_of(name: str, root: Path) -> Iterator[Path]:
    folder = root
    for part in name.split("."):
        module = folder / f"{part}.py"
        if module.is_file():
            yield module
            return
        folder = folder / part
        if not folder.is_dir():
            return
        if (folder / "__init__.py").is_file():
            yield folder / "__init__.py"

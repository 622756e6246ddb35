"""Where models, data and metrics come from: a file, a name, or a function in a file of the user's."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.artifacts import Artifact, file_digest, folder_digest
from pipeline.errors import UserError
from pipeline.models.quiet import keras_module
from pipeline.source_digest import imported_modules, source_digest
from pipeline.strict_yaml import suggest

SAVED_MODEL = "saved_model.pb"  # as an ending: the folder that holds it


@dataclass(frozen=True)
class Source:
    """A file, and the function in it where it is a Python file; or the folder of a SavedModel."""

    path: Path
    function: str | None = None

    def artifact(self) -> Artifact:
        """The file as a stage's input; a Python file's digest covers its local imports and the function's name, a
        folder's every file in it."""
        if self.path.is_dir():
            return Artifact(folder_digest(self.path), "saved_model", self.path)
        if self.function is None:
            return Artifact(file_digest(self.path), self.path.suffix[1:], self.path)
        digest = source_digest([self.path], self.path.absolute().parent)
        return Artifact(f"{digest}:{self.function}", "source", self.path)


def parse(text: str, folder: Path, endings: tuple[str, ...]) -> Source:
    """`text` as a file with one of `endings`, or as `file.py:function`; relative to `folder`. With `SAVED_MODEL`
    among the endings, also as a folder that holds such a file.

    Raises `ValueError` with what was expected when the file or the function is not there. Nothing is imported.
    """
    name, colon, function = text.partition(":")
    path = folder / os.path.expanduser(name)
    kinds = [
        f" or a folder with {ending}" if ending == SAVED_MODEL else f" or a {ending} file"
        for ending in endings
    ]
    expected = f"expected file.py:function{''.join(kinds)}"
    if colon and name.endswith(".py"):
        if not path.is_file():
            raise ValueError(f"no such file: {path}")
        _check_function(path, function)
        return Source(path, function)
    if SAVED_MODEL in endings and (path / SAVED_MODEL).is_file():
        return Source(path)
    if Path(text).suffix not in endings:
        raise ValueError(f"{expected}, received {text!r}")
    if not path.is_file():
        raise ValueError(f"no such file: {path}")
    return Source(path)


def _check_function(path: Path, function: str) -> None:
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError as error:
        raise ValueError(f"{path}:{error.lineno}: not Python: {error.msg}") from None
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    imported = [
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    if function not in [*functions, *imported]:
        raise ValueError(f"{path.name} has no function {function!r}; {suggest(function, functions)}")


def from_artifact(artifact: Artifact) -> Source:
    """The source that `artifact` stands for."""
    _, colon, function = artifact.digest.partition(":")
    return Source(artifact.path, function if colon else None)


def load_module(path: Path) -> ModuleType:
    """Import the user's file, as Python itself would run it: its own folder comes first."""
    with _own_folder(path):
        return _import(path)


def call(source: Source, *arguments: Any) -> Any:
    """Call the function that `source` names; an exception in it is told as the user's."""
    with _own_folder(source.path):
        function = getattr(_import(source.path), source.function or "")
        try:
            return function(*arguments)
        except Exception as error:
            line = _line_in(error, source.path)
            problem = f"{source.function}: {type(error).__name__}: {error}"
            raise UserError(f"{source.path}{line}: {problem}") from error


@contextlib.contextmanager
def _own_folder(path: Path) -> Iterator[None]:
    """While the block runs, `import` finds what lies beside `path`; afterwards those modules are forgotten.

    Two files of the user's in different folders may each have a `helpers.py` beside them.
    """
    folder = str(path.absolute().parent)
    before = set(sys.modules)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        for name in set(sys.modules) - before:
            place = getattr(sys.modules[name], "__file__", None) or ""
            if place.startswith(folder + os.sep) and "site-packages" not in place:
                del sys.modules[name]


def _import(path: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(f"edgepipe_user_{path.stem}", path)
    if specification is None or specification.loader is None:
        raise UserError(f"{path}: cannot be imported")
    if {"keras", "tensorflow"} & set(imported_modules(path, path.parent)):
        keras_module()
    module = importlib.util.module_from_spec(specification)
    sys.modules[module.__name__] = module
    try:
        specification.loader.exec_module(module)
    except Exception as error:
        raise UserError(
            f"{path}{_line_in(error, path)}: importing it failed: {type(error).__name__}: {error}"
        ) from error
    return module


def _line_in(error: Exception, path: Path) -> str:
    line, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = f":{trace.tb_lineno}"
        trace = trace.tb_next
    return line

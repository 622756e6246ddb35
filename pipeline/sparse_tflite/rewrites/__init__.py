"""Exact rewrites: each file of this folder brings a graph inside the rules of sparse inference, with the same answers.

A file has
SENTENCE   what it does, for people
`apply(editor)` carries it out wherever it fits, in one subgraph; returns how often
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from typing import Protocol, cast

from pipeline.errors import UserError
from pipeline.sparse_tflite.editing import Editor
from pipeline.sparse_tflite.flatbuffer import damage_is_told, read_model, write_model


class Rewrite(Protocol):
    """What every rewrite is."""

    SENTENCE: str

    def apply(self, editor: Editor) -> int: ...


def names() -> list[str]:
    """The rewrites there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Rewrite:
    """The rewrite `name`. Raises `ValueError` for an unknown one."""
    if name not in names():
        raise ValueError(f"unknown rewrite {name!r}; known: {', '.join(names())}")
    return cast(Rewrite, importlib.import_module(f"{__name__}.{name}"))


def rewrite(
    content: bytes, wanted: Iterable[str] | None = None, name: str = "model.tflite"
) -> tuple[bytes, dict[str, int]]:
    """Apply rewrites to a .tflite file, all there are where none is named; returns the file, and how often each fitted.

    Where none fits, the bytes returned are those received. Raises `UserError` for an unknown one or a damaged file.
    """
    try:
        chosen = {each: load(each) for each in (names() if wanted is None else wanted)}
    except ValueError as error:
        raise UserError(str(error)) from None
    return carry_out(content, chosen, name)


def carry_out(
    content: bytes, chosen: Mapping[str, Rewrite], name: str = "model.tflite"
) -> tuple[bytes, dict[str, int]]:
    """As `rewrite`, with the rewrites themselves."""
    model = read_model(content, name)
    with damage_is_told(name):
        editors = [Editor(model, graph) for graph in model.subgraphs or []]
        done = {each: sum(map(found.apply, editors)) for each, found in chosen.items()}
        return (write_model(model) if any(done.values()) else content), done

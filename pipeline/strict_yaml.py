"""Read a YAML file into a given pydantic model: every error at once, with file, line, key and a suggestion."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipeline.errors import UserError

Model = TypeVar("Model", bound=BaseModel)
KeyPath = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars: `on` and `no` are text, 1e-3 is a number, dates are text."""


_SCALARS = {
    "tag:yaml.org,2002:bool": (r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    "tag:yaml.org,2002:int": (r"^[-+]?[0-9]+$", "-+0123456789"),
    "tag:yaml.org,2002:float": (
        r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$",
        "-+.0123456789",
    ),
    "tag:yaml.org,2002:null": (r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
}
_Loader.yaml_implicit_resolvers = {}
for _tag, (_pattern, _first) in _SCALARS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), list(_first))


@dataclass
class Document:
    """A YAML mapping and where each of its keys stands; `path` names the file in messages."""

    path: str
    values: dict[str, Any]
    lines: dict[KeyPath, int] = field(default_factory=dict)
    overrides: dict[KeyPath, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def where(self, key: KeyPath) -> str:
        """The place of a key, or of the nearest key around it, as a message begins with it."""
        for length in range(len(key), -1, -1):
            for override, text in self.overrides.items():
                if length and override[:length] == key[:length]:
                    return f"--set {text}"
            if key[:length] in self.lines:
                return f"{self.path}:{self.lines[key[:length]]}"
        return f"{self.path}:1" if self.lines else self.path


def read_yaml(
    path: Path, model: type[Model], *, overrides: Iterable[str] = (), folder: Path | None = None
) -> Model:
    """Read `path` into `model`; `overrides` are `a.b=value` texts, laid over the file and checked the same way.

    `folder` is what relative paths in the file are relative to (the file's own folder unless given); validators
    find it as `info.context["folder"]`. Raises `UserError` with a line for every mistake.
    """
    return _check(_parse(path), model, overrides, folder or path.absolute().parent)


def read_values(
    values: dict[str, Any], model: type[Model], *, overrides: Iterable[str], folder: Path, name: str
) -> Model:
    """As `read_yaml`, from values that did not come from a file; `name` says in messages where they came from."""
    return _check(Document(name, values), model, overrides, folder)


def _check(document: Document, model: type[Model], overrides: Iterable[str], folder: Path) -> Model:
    for text in overrides:
        _override(document, text)
    try:
        # JSON mode: a YAML list is a tuple and a text a path, yet "3" is no number.
        result = model.model_validate_json(
            json.dumps(document.values), strict=True, context={"folder": folder}
        )
    except ValidationError as error:
        details = sorted(error.errors(include_url=False), key=lambda detail: _line(document, detail))
        document.problems += [_explain(document, model, detail) for detail in details]
    if document.problems:
        raise UserError(*document.problems)
    return result


def _line(document: Document, detail: ErrorDetails) -> int:
    key = detail["loc"]
    return next((document.lines[key[:n]] for n in range(len(key), -1, -1) if key[:n] in document.lines), 0)


def _parse(path: Path) -> Document:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        document = Document(str(path), {}, {(): 1})
        if node is not None:
            if not isinstance(node, yaml.MappingNode):
                raise UserError(f"{path}:1: expected keys and values, received {_kind(node)}")
            document.values = _mapping(node, (), document)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise UserError(f"{path}:{line}: not YAML: {error.problem or error.context}") from None
    except RecursionError:
        raise UserError(f"{path}:1: not YAML: a value holds itself") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}:1: not YAML: {' '.join(str(error).split())}") from None
    return document


def _kind(node: yaml.Node) -> str:
    return {"MappingNode": "a mapping", "SequenceNode": "a list"}.get(type(node).__name__, "a single value")


def _mapping(node: yaml.MappingNode, at: KeyPath, document: Document) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value)
        line = key_node.start_mark.line + 1
        if key in result:
            first = document.lines[(*at, key)]
            document.problems.append(
                f"{document.path}:{line}: {_dotted((*at, key))}: given twice (first on line {first}); keep one"
            )
            continue
        document.lines[(*at, key)] = line
        result[key] = _value(value_node, (*at, key), document)
    return result


def _value(node: yaml.Node, at: KeyPath, document: Document) -> Any:
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, at, document)
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            document.lines[(*at, index)] = item.start_mark.line + 1
        return [_value(item, (*at, index), document) for index, item in enumerate(node.value)]
    try:
        return _scalar(node.tag, node.value)
    except ValueError as error:
        document.problems.append(f"{document.path}:{node.start_mark.line + 1}: {_dotted(at)}: {error}")
        return None


def _scalar(tag: str, text: str) -> Any:
    kind = tag.removeprefix("tag:yaml.org,2002:")
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind in ("int", "float"):
        return int(text) if kind == "int" else float(text)
    if kind == "str":
        return text
    raise ValueError(f"the tag {tag} is not known here")


def _override(document: Document, text: str) -> None:
    name, equals, value = text.partition("=")
    keys = tuple(name.strip().split("."))
    if not equals or not all(keys):
        document.problems.append(f"--set {text}: expected key=value, for example prune.sparsity=0.9")
        return
    loader = _Loader(value)
    try:
        node = loader.get_single_node()
        scratch = Document(f"--set {text}", {})
        parsed = None if node is None else _value(node, keys, scratch)
        document.problems += scratch.problems
    except yaml.YAMLError:
        document.problems.append(f"--set {text}: {value!r} is not a YAML value")
        return
    inside: Any = document.values
    for key in keys[:-1]:
        if inside.get(key) is None:
            inside[key] = {}
        inside = inside[key]
        if not isinstance(inside, dict):
            document.problems.append(f"--set {text}: {key} holds a value, not keys")
            return
    inside[keys[-1]] = parsed
    document.overrides[keys] = text


def _explain(document: Document, root: type[BaseModel], detail: ErrorDetails) -> str:
    key = tuple(detail["loc"])
    where, name, kind = document.where(key), _dotted(key), detail["type"]
    if kind == "extra_forbidden":
        owner = _model_at(root, key[:-1])
        known = list(owner.model_fields) if owner else []
        return f"{where}: {name}: unknown key; {suggest(str(key[-1]), known)}"
    if kind == "missing":
        return f"{where}: {name}: missing; it must be given"
    message = detail["msg"].removeprefix("Value error, ")
    if kind == "value_error" and (inner := re.match(r"([a-z_.]+): (?=[a-z])", message)):
        # A check of a whole section names the key below it that it is about.
        key = (*key, *inner[1].split("."))
        where, name, message = document.where(key), _dotted(key), message[inner.end() :]
    message = message[0].lower() + message[1:]
    received = detail.get("input")
    if kind != "value_error" and not isinstance(received, Mapping):
        message += f", received {json.dumps(received)}"
    return f"{where}: {name}: {message}"


def suggest(given: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?`, or the list of what there is."""
    known = sorted(known)
    close = difflib.get_close_matches(given, known, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"


def _dotted(key: KeyPath) -> str:
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "(file)"


def _model_at(root: type[BaseModel], key: KeyPath) -> type[BaseModel] | None:
    model: type[BaseModel] | None = root
    for part in key:
        if isinstance(part, int) or model is None or part not in model.model_fields:
            continue
        model = next(_models_in(model.model_fields[part].annotation), None)
    return model


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)

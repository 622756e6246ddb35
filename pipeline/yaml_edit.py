"""Entries of one section of a YAML file set, line by line: comments and all else stay as they are."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import yaml

from pipeline.errors import UserError

PLAIN_KEY = re.compile(r"[A-Za-z][A-Za-z0-9._/-]*")


def set_entries(text: str, section: str, entries: Mapping[str, str], where: str) -> str:
    """The text with `entries` (key: value as YAML) in the top-level mapping `section`, which is made where it is not.

    What the text then says is compared with what it should; raises `UserError` where its form does not allow that.
    """
    edited = text
    for key, value in entries.items():
        edited = _set(edited, section, key, value)
    wanted = yaml.safe_load(text) or {}
    wanted[section] = {
        **(wanted.get(section) or {}),
        **{key: yaml.safe_load(value) for key, value in entries.items()},
    }
    if _loaded(edited) != wanted:
        raise UserError(
            f"{where}: {section}: could not be edited line by line; write it as a block, a line for each entry"
        )
    return edited


def _loaded(text: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None


def _set(text: str, section: str, key: str, value: str) -> str:
    line = f"{key if PLAIN_KEY.fullmatch(key) else json.dumps(key)}: {value}"
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    nodes = {} if root is None else {name.value: (name, node) for name, node in root.value}
    if section not in nodes:
        return f"{text}{'' if not text or text.endswith(chr(10)) else chr(10)}{section}:\n  {line}\n"
    name, node = nodes[section]
    if not isinstance(node, yaml.MappingNode) or not node.value:
        # Nothing is there yet: what stands for nothing goes, and a comment behind it stays.
        at, end = node.start_mark.index, node.end_mark.index
        text = text[:at].rstrip(" ") + text[end:] if end > at else text
        return _below(text, name.end_mark.index, f"  {line}")
    there = {entry.value: content for entry, content in node.value}
    if key in there:
        at, end = there[key].start_mark.index, _end(there[key])
        return f"{text[:at]}{value}{text[end:]}"
    first, (_, last) = node.value[0][0], node.value[-1]
    return _below(text, _end(last), f"{' ' * first.start_mark.column}{line}")


def _end(node: yaml.Node) -> int:
    """Where a value ends: of a block, whose own mark is where the next begins, its last line."""
    while isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    return int(node.end_mark.index)


def _below(text: str, at: int, line: str) -> str:
    """The text with a line below the one that holds the character `at`."""
    end = text.find("\n", at)
    return f"{text}\n{line}\n" if end < 0 else f"{text[:end]}\n{line}{text[end:]}"

"""Entries set in a YAML file: what it says changes there only, and its comments stay."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.yaml_edit import set_entries

KEYS = st.text("abc/.-:# é{}'\"", min_size=1, max_size=6)
VALUE = '{digest: "aa", owner: "ana"}'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "pins:\n  a/b: 1\n"),
        ("x: 1", "x: 1\npins:\n  a/b: 1\n"),
        ("pins: {}  # ours\nx: 1\n", "pins:  # ours\n  a/b: 1\nx: 1\n"),
        ("pins:   # ours\nx: 1  # mine\n", "pins:   # ours\n  a/b: 1\nx: 1  # mine\n"),
        ("pins:\n    z: 2  # last\n\n# end\nx: 1\n", "pins:\n    z: 2  # last\n    a/b: 1\n\n# end\nx: 1\n"),
        ("pins:\n  a/b: 9  # old\n  z: 2\n", "pins:\n  a/b: 1  # old\n  z: 2\n"),
        ("pins:\n  z: 2", "pins:\n  z: 2\n  a/b: 1\n"),
        ("pins:\n  a/b:\n    d: 1  # d\n\n# x\nx: 1\n", "pins:\n  a/b:\n    1  # d\n\n# x\nx: 1\n"),
        ("pins:\n  z:\n    - d  # d\n# x\nx: 1\n", "pins:\n  z:\n    - d  # d\n  a/b: 1\n# x\nx: 1\n"),
        ("pins: {a/b: 3, z: 2}\n", "pins: {a/b: 1, z: 2}\n"),
    ],
)
def test_only_the_entry_changes(before: str, after: str) -> None:
    assert set_entries(before, "pins", {"a/b": "1"}, "file") == after


@given(
    st.dictionaries(KEYS, st.integers(0, 9), max_size=4), st.lists(KEYS, min_size=1, max_size=3, unique=True)
)
def test_what_the_file_says_is_what_was_asked(there: dict[str, int], keys: list[str]) -> None:
    text = yaml.safe_dump({"first": 1, "pins": there, "then": [1, {"pins": 2}]}, sort_keys=False)
    said = yaml.safe_load(set_entries(text, "pins", dict.fromkeys(keys, VALUE), "file"))
    wanted = {**there, **{key: {"digest": "aa", "owner": "ana"} for key in keys}}
    assert said == {"first": 1, "pins": wanted, "then": [1, {"pins": 2}]}


def test_a_form_that_cannot_be_edited_is_refused() -> None:
    with pytest.raises(UserError, match="write it as a block"):
        set_entries("pins: {\n  z: 2 }\n", "pins", {"a": "1"}, "file")

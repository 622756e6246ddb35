from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from pipeline.errors import UserError
from pipeline.strict_yaml import read_yaml


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(0.5, ge=0, lt=1)
    mode: Literal["fast", "small"] = "fast"


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    count: int = 1
    on: bool = False
    files: tuple[str, ...] = ()
    inner: Inner = Inner()


def problems_of(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        read_yaml(path, Outer, overrides=overrides)
    return [problem.replace(f"{path}", "f.yaml") for problem in caught.value.problems]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "f.yaml"


def test_every_mistake_is_told_at_once_with_its_line(file: Path) -> None:
    file.write_text("nam: x\ncount: two\ninner:\n  shar: 0.5\n  mode: big\n")
    assert problems_of(file) == [
        "f.yaml:1: name: missing; it must be given",
        "f.yaml:1: nam: unknown key; did you mean 'name'?",
        'f.yaml:2: count: input should be a valid integer, received "two"',
        "f.yaml:4: inner.shar: unknown key; did you mean 'share'?",
        "f.yaml:5: inner.mode: input should be 'fast' or 'small', received \"big\"",
    ]


def test_a_key_far_from_any_other_lists_what_there_is(file: Path) -> None:
    file.write_text("name: x\ninner: {zzz: 1}\n")
    assert problems_of(file) == ["f.yaml:2: inner.zzz: unknown key; known: mode, share"]


def test_a_key_given_twice_is_a_mistake(file: Path) -> None:
    file.write_text("name: x\ncount: 1\ncount: 2\n")
    assert problems_of(file) == ["f.yaml:3: count: given twice (first on line 2); keep one"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- a\n- b\n", "f.yaml:1: expected keys and values, received a list"),
        ("just text\n", "f.yaml:1: expected keys and values, received a single value"),
        ("", "f.yaml:1: name: missing; it must be given"),
        ("name: &a [*a]\n", "f.yaml:1: not YAML: a value holds itself"),
        ("name: [a\n", "f.yaml:2: not YAML: expected ',' or ']', but got '<stream end>'"),
        (
            "name: !!python/object:os.system x\n",
            "f.yaml:1: name: the tag tag:yaml.org,2002:python/object:os.system",
        ),
        ("name: x\ncount: '3'\n", 'f.yaml:2: count: input should be a valid integer, received "3"'),
        ("name: x\ncount: 1.5\n", "f.yaml:2: count: input should be a valid integer"),
        (
            "name: x\ninner: {share: .nan}\n",
            'f.yaml:2: inner.share: input should be a valid number, received ".nan"',
        ),
        ("name: x\nfiles: [a, 3]\n", "f.yaml:2: files[1]: input should be a valid string, received 3"),
    ],
)
def test_what_is_wrong_is_said(file: Path, text: str, problem: str) -> None:
    file.write_text(text)
    assert any(each.startswith(problem) for each in problems_of(file)), problems_of(file)


def test_a_file_that_is_not_there(file: Path) -> None:
    assert problems_of(file) == ["f.yaml: no such file"]


def test_a_file_that_is_no_text(file: Path) -> None:
    file.write_bytes(b"\xff\xfe\x00name")
    assert problems_of(file)[0].startswith("f.yaml: cannot be read")


def test_scalars_are_those_of_yaml_1_2(file: Path) -> None:
    file.write_text("name: on\nfiles: [no, 2024-01-01, 1_000, 0x10]\ninner: {share: 1e-3}\non: true\n")
    read = read_yaml(file, Outer)
    assert (read.name, read.on, read.inner.share) == ("on", True, 1e-3)
    assert read.files == ("no", "2024-01-01", "1_000", "0x10")


def test_an_override_is_laid_over_the_file(file: Path) -> None:
    file.write_text("name: x\ninner: {mode: small}\n")
    read = read_yaml(file, Outer, overrides=["inner.share=0.25", "count=3", "files=[a, b]"])
    assert read == Outer(name="x", count=3, files=("a", "b"), inner=Inner(share=0.25, mode="small"))


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("inner.share=2", "--set inner.share=2: inner.share: input should be less than 1, received 2"),
        ("inner.sharre=0", "--set inner.sharre=0: inner.sharre: unknown key; did you mean 'share'?"),
        ("count", "--set count: expected key=value, for example prune.sparsity=0.9"),
        ("name.x=1", "--set name.x=1: name holds a value, not keys"),
        ("count=[", "--set count=[: '[' is not a YAML value"),
    ],
)
def test_an_override_is_checked_the_same_way(file: Path, override: str, problem: str) -> None:
    file.write_text("name: x\n")
    assert problem in problems_of(file, override)


scalars = st.one_of(st.booleans(), st.integers(-9999, 9999), st.text(max_size=8), st.none())
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(st.one_of(trees.map(repr), st.text(max_size=60)))
def test_no_text_whatever_leads_to_another_exception(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, encoding="utf-8", errors="ignore")
    try:
        read_yaml(path, Outer)
    except UserError as error:
        assert all(problem.startswith(str(path)) for problem in error.problems)

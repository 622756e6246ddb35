from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.source_digest import local_sources, source_digest


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    files = {
        "main.py": "import numpy\nimport helper\n\ndef f():\n    from package.inner import thing\n",
        "helper.py": "import os\n",
        "package/__init__.py": "",
        "package/inner.py": "from . import sibling\nfrom .deep.leaf import x\n",
        "package/sibling.py": "",
        "package/deep/__init__.py": "from .. import cousin\n",
        "package/deep/leaf.py": "",
        "package/cousin.py": "",
        "unrelated.py": "import helper\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_local_imports_are_followed_wherever_they_stand(tree: Path) -> None:
    found = {path.relative_to(tree).as_posix() for path in local_sources([tree / "main.py"], tree)}
    assert found == {
        "main.py",
        "helper.py",
        "package/__init__.py",
        "package/inner.py",
        "package/sibling.py",
        "package/deep/__init__.py",
        "package/deep/leaf.py",
        "package/cousin.py",
    }


@pytest.mark.parametrize("changed", ["main.py", "helper.py", "package/deep/leaf.py", "package/cousin.py"])
def test_a_change_anywhere_below_changes_the_digest(tree: Path, changed: str) -> None:
    before = source_digest([tree / "main.py"], tree)
    (tree / changed).write_text((tree / changed).read_text() + "\n# another\n")
    assert source_digest([tree / "main.py"], tree) != before


def test_a_change_elsewhere_does_not(tree: Path) -> None:
    before = source_digest([tree / "main.py"], tree)
    (tree / "unrelated.py").write_text("x = 1\n")
    assert source_digest([tree / "main.py"], tree) == before


def test_files_that_import_each_other_come_to_an_end(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import b\n")
    (tmp_path / "b.py").write_text("import a\n")
    assert len(local_sources([tmp_path / "a.py"], tmp_path)) == 2


def test_a_file_that_is_no_python_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\ndef f(:\n")
    with pytest.raises(UserError, match=r"a\.py:2: not Python"):
        source_digest([tmp_path / "a.py"], tmp_path)

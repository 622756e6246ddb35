"""Result documents of earlier versions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline import result
from pipeline.errors import UserError
from tests.results_for_tests import make_result


def test_a_document_of_version_1_is_read_as_one_of_today(tmp_path: Path) -> None:
    today = make_result()
    document = json.loads(today.model_dump_json())
    encoded = [target.pop("encoded") for target in document["targets"].values()]
    document["model"] |= {key: encoded[0][key] for key in ("encodings", "agreement", "variants")}
    document["schema_version"] = 1
    path = tmp_path / "result.json"
    path.write_text(json.dumps(document))
    for found in result.load(tmp_path).targets.values():
        assert found.encoded is not None and found.encoded.title == "all runtimes"
        assert found.encoded.variants == today.targets["local"].encoded.variants  # type: ignore[union-attr]
    assert result.load(tmp_path).model == today.model


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not a result: Expecting"),
        ("[]", "not a result of schema version 2"),
        ('{"schema_version": 3}', "not a result of schema version 2: schema_version"),
        ('{"schema_version": 1, "model": {}, "targets": {"a": 5}}', "not a result of schema version 2"),
        ('{"schema_version": 1, "model": 5}', "not a result of schema version 2: id"),
    ],
)
def test_what_is_no_result_is_said_to_be_none(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(UserError, match=words):
        result.load(tmp_path)

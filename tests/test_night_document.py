"""The night's document: its schema is published, and what is none is said to be none."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from pipeline.errors import UserError
from pipeline.farm import night
from pipeline.farm.judge import NightVerdict
from pipeline.farm.night import JobVariant, Night, NightJob
from pipeline.reports import night_summary
from tests.workspace import ROOT

JOB = NightJob(
    plan="digits",
    target="rpi4",
    ended="done",
    run="run-1",
    folder="digits-rpi4",
    variants={"candidate": JobVariant(digest="c" * 64, bytes=1000)},
    judged=("latency", "size"),
)
NIGHT = Night(
    id="20250101-020000-nightly-0a1b2c",
    created="2025-01-01T02:00:00Z",
    finished="2025-01-01T03:00:00Z",
    version="0.1.0",
    nightly="nightly",
    file="nightly.yaml",
    jobs=(JOB, NightJob(plan="digits", target="rpi5", ended="missing", reason="switched off")),
    verdicts=(
        NightVerdict(plan="digits", target="rpi4", metric="size", outcome="pass", reason="no change"),
        NightVerdict(plan="digits", target="rpi5", metric="size", outcome="missing", reason="switched off"),
    ),
    exit_code=1,
)


def test_the_published_schema_is_that_of_today() -> None:
    published = json.loads((ROOT / "docs" / "night.schema.json").read_text())
    assert published == night.json_schema(), "write it anew: edgepipe schema night > docs/night.schema.json"
    jsonschema.Draft202012Validator(published).validate(NIGHT.model_dump(mode="json"))


def test_a_saved_night_is_the_one_that_is_loaded(tmp_path: Path) -> None:
    path = night.save(NIGHT, tmp_path / "night")
    assert night.load(path) == night.load(path.parent) == NIGHT


def test_all_that_is_no_pass_is_an_alarm_of_its_job() -> None:
    (alarm,) = NIGHT.alarms
    assert alarm.outcome == "missing" and NIGHT.job_of(alarm).reason == "switched off"


@pytest.mark.parametrize("count", [1, 2])
def test_what_a_device_said_commands_no_terminal(count: int) -> None:
    reasons = ("no such \x1b[2J\x07 model", "another \x9b2J one")
    verdicts = [
        NightVerdict(plan="digits", target="rpi5", metric=metric, outcome="missing", reason=reason)
        for metric, reason in zip(("size", "metric"), reasons[:count], strict=False)
    ]
    text = night_summary.as_text(NIGHT.model_copy(update={"verdicts": tuple(verdicts)}))
    assert "no such ?[2J? model" in text
    assert not {"\x1b", "\x07", "\x9b"} & set(text)


@pytest.mark.parametrize("content", ["{", "[]", '{"schema_version": 2}'])
def test_what_is_no_night_is_said_to_be_none(content: str, tmp_path: Path) -> None:
    (tmp_path / "night.json").write_text(content)
    with pytest.raises(UserError, match="not a night of schema version 1"):
        night.load(tmp_path)


def test_a_folder_without_a_night_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="runs/latest-night"):
        night.load(tmp_path)

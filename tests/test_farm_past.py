"""What a night is told of the nights before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.farm.case import VARIANTS, WINDOW, Past, Session
from pipeline.farm.past import Wanted, past
from pipeline.history import series
from pipeline.history.database import reading, writing
from pipeline.history.prune import prune
from pipeline.history.record import record
from pipeline.measurement.validity import Validity
from pipeline.result import Result
from tests.results_for_tests import make_measurement, make_result

DIGESTS = {"candidate": "c" * 64, "baseline": "b" * 64, "again": "b" * 64, "canary": "a" * 64}
TEMPLATE = make_result(repetitions=2, samples=3)
WANTED = Wanted(
    "digits", "rpi4", series.segment(series.identity(TEMPLATE.targets["rpi4"])), "b" * 64, "a" * 64
)
LATER = "2025-12-31"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'history.db'}"


def night(number: int, digests: dict[str, str] = DIGESTS, repetitions: int = 2, **changes: Any) -> Result:
    """The run of a night: the variants took turns on one device."""
    started = f"2025-{1 + number // 28:02}-{1 + number % 28:02}T02:00:00Z"
    found = {
        name: make_measurement("dense", True, repetitions, 3, 1 + number / 100).model_copy(
            update={"variant": name, "digest": digests[name]}
        )
        for name in VARIANTS
    }
    update = {"started": started, "measurements": found, "summaries": {}, **changes}
    target = TEMPLATE.targets["rpi4"].model_copy(update=update)
    more = {"id": f"night-{number}", "created": started, "targets": {"rpi4": target}}
    return TEMPLATE.model_copy(update=more)


def known(url: str, wanted: Wanted = WANTED, before: str = LATER) -> Past:
    with reading(url) as connection:
        return past(connection, wanted, before)


def test_the_past_is_what_the_sessions_were_in_the_order_of_time(url: str) -> None:
    runs = [night(number) for number in range(5)]
    for run in (runs[3], runs[0], runs[4], runs[1], runs[2]):
        record(run, url)
    sessions = [Session(dict(run.targets["rpi4"].measurements), Validity(state="valid"), {}) for run in runs]
    found = known(url)
    np.testing.assert_allclose(found.own, [each.logs("again", "baseline") for each in sessions])
    np.testing.assert_allclose(found.ratios, [each.logs("candidate", "canary").mean() for each in sessions])
    np.testing.assert_allclose(found.levels, [each.latencies("canary").mean() for each in sessions])
    assert np.all(np.diff(found.levels) > 0)
    assert len(known(url, before="2025-01-03T02:00:00Z").levels) == 2


def test_other_segments_baselines_and_canaries_are_another_past(url: str) -> None:
    record(night(0), url)
    record(night(1, {**DIGESTS, "candidate": "d" * 64}), url)
    record(night(2, {**DIGESTS, "baseline": "d" * 64, "again": "d" * 64}), url)
    record(night(3, {**DIGESTS, "canary": "d" * 64}), url)
    record(night(4, runtime="another"), url)
    assert len(known(url).ratios) == 2
    for other in (
        replace(WANTED, baseline="d" * 64),
        replace(WANTED, canary="d" * 64),
        replace(WANTED, segment=series.segment(series.identity(night(4, runtime="another").targets["rpi4"]))),
    ):
        assert len(known(url, other).ratios) == 1
    assert len(known(url, replace(WANTED, target="rpi5")).ratios) == 0


def test_nights_that_tell_nothing_are_left_out(url: str) -> None:
    record(night(0), url)
    with writing(url) as connection:
        prune(connection, 0, 0, 2e9, dry_run=False)
    record(night(1, validity=Validity(state="invalid", reasons=("because",))), url)
    part = night(2)
    target = part.targets["rpi4"]
    lacking = {name: each for name, each in target.measurements.items() if name != "again"}
    shortened = target.model_copy(update={"measurements": lacking})
    record(part.model_copy(update={"targets": {"rpi4": shortened}}), url)
    record(night(3, repetitions=4), url)
    assert known(url).own.shape == (1, 4)
    record(night(4), url)
    assert known(url).own.shape == (1, 2)


def test_no_more_nights_than_are_looked_at(url: str) -> None:
    for number in range(WINDOW + 3):
        record(night(number), url)
    found = known(url)
    assert found.own.shape == (WINDOW, 2) and found.levels[0] > known(url, before="2025-01-02").levels[0]

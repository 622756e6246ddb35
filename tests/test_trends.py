"""The nights of a series as they are shown: known levels, steps, intervals and segments."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.farm.trends import Trend, trend
from pipeline.history.database import reading, writing
from pipeline.history.prune import prune
from pipeline.history.record import record
from pipeline.measurement.validity import Validity
from pipeline.result import InvalidSession, Result
from tests.nights_for_tests import DIGESTS, Life, run_of
from tests.results_for_tests import make_result

STEADY = Life("digits", "rpi4", ms=8.0)
LATER = "2025-12-31"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'history.db'}"


def filled(url: str, life: Life, count: int) -> None:
    for night in range(count):
        record(run_of(life, night), url)


def shown(url: str, until: str = LATER, nights: int = 60) -> Trend:
    with reading(url) as connection:
        return trend(connection, "digits", "rpi4", until, nights)


def with_target(result: Result, **changes: object) -> Result:
    (target,) = result.targets.values()
    return result.model_copy(update={"targets": {"rpi4": target.model_copy(update=changes)}})


def test_each_night_is_what_its_session_was(url: str) -> None:
    filled(url, STEADY, 9)
    found = shown(url)
    for night, point in enumerate(found.points):
        (target,) = run_of(STEADY, night).targets.values()
        logs = {
            name: np.log([np.median(each.samples_ns) for each in measurement.repetitions])
            for name, measurement in target.measurements.items()
        }
        assert point.change is not None and point.change.low is not None and point.change.high is not None
        assert point.change.value == pytest.approx(np.exp((logs["candidate"] - logs["baseline"]).mean()))
        assert point.change.low < point.change.value < point.change.high
        assert point.over_canary == pytest.approx(np.exp((logs["candidate"] - logs["canary"]).mean()))
        assert point.medians_ms["canary"] == target.summaries["canary"].p50_ms.value
        assert point.file_bytes == 121_304 and point.metric["candidate"] == STEADY.metric
    assert (found.steps, found.breaks, found.emulated, found.metric) == ((), (), False, "accuracy")
    assert len({point.level for point in found.points}) == 1


def test_a_step_of_the_candidate_is_told_from_one_of_the_device(url: str) -> None:
    life = replace(STEADY, slower=lambda night: 0.05 * (night >= 8), device=lambda night: 0.1 * (night >= 12))
    filled(url, life, 20)
    found = shown(url)
    assert [(step.of, step.at) for step in found.steps] == [("candidate", 8), ("device", 12)]
    for step, expected in zip(found.steps, (0.05, 0.1), strict=True):
        assert step.change == pytest.approx(np.expm1(expected), abs=0.005) and step.p < 1e-4
    first, last = found.points[7].level, found.points[8].level
    assert first is not None and last is not None
    assert last / first == pytest.approx(np.exp(0.05), rel=0.005)


def test_a_new_kernel_or_baseline_begins_a_segment_and_is_no_step(url: str) -> None:
    life = replace(
        STEADY,
        slower=lambda night: 0.2 * (night >= 8),
        kernel=lambda night: "6.6.31" if night < 8 else "6.12.9",
    )
    filled(url, life, 12)
    accepted = {**DIGESTS, "baseline": "d" * 64, "again": "d" * 64}
    for night in range(12, 15):
        run = run_of(life, night)
        (target,) = run.targets.values()
        found = {
            name: each.model_copy(update={"digest": accepted[name]})
            for name, each in target.measurements.items()
        }
        record(with_target(run, measurements=found), url)
    breaks = shown(url).breaks
    assert [(each.at, each.why) for each in breaks] == [
        (8, "kernel: 6.6.31 became 6.12.9"),
        (12, "another baseline"),
    ]
    assert shown(url).steps == ()


def test_what_is_invalid_broken_off_or_pruned_is_shown_for_what_it_is(url: str) -> None:
    record(run_of(STEADY, 0), url)
    with writing(url) as connection:
        prune(connection, 0, 0, 2e9, dry_run=False)
    record(with_target(run_of(STEADY, 1), validity=Validity(state="invalid", reasons=("hot",))), url)
    part = run_of(STEADY, 2)
    lacking = {name: each for name, each in part.targets["rpi4"].measurements.items() if name == "candidate"}
    record(with_target(part, measurements=lacking, validity=None), url)
    record(run_of(STEADY, 3), url)
    pruned, invalid, broken, whole = shown(url).points
    assert pruned.change is not None and (pruned.change.low, pruned.over_canary) == (None, None)
    assert (invalid.validity, invalid.change, invalid.level) == ("invalid", None, None)
    assert (broken.validity, broken.change) == (None, None)
    assert whole.change is not None and whole.change.low is not None and whole.level is not None


def invalid_session(result: Result) -> InvalidSession:
    (target,) = result.targets.values()
    valid = Validity(state="invalid", reasons=("hot",))
    return InvalidSession(validity=valid, environment=target.environment, measurements=target.measurements)


def test_a_session_that_was_taken_again_does_not_stand_for_the_one_that_counts(url: str) -> None:
    run, before = run_of(STEADY, 0), invalid_session(run_of(replace(STEADY, ms=12.0), 0, again=1))
    filled(url, STEADY, 1)
    alone = shown(url).points
    record(with_target(run, invalid_sessions=(before, before)), url)
    assert shown(url).points == alone and alone[0].change is not None


def test_of_a_session_that_broke_off_after_an_invalid_one_the_invalid_one_is_shown_whole(url: str) -> None:
    run = run_of(STEADY, 0)
    left = {"baseline": run.targets["rpi4"].measurements["baseline"]}
    broken = with_target(run, measurements=left, validity=None, invalid_sessions=(invalid_session(run),))
    record(broken, url)
    (point,) = shown(url).points
    assert (point.validity, point.change, set(point.metric)) == ("invalid", None, set(DIGESTS))


def test_a_session_that_broke_off_is_no_night_and_no_break(url: str) -> None:
    filled(url, STEADY, 3)
    for night, left in ((3, {"candidate", "baseline"}), (4, set(DIGESTS))):
        run = run_of(replace(STEADY, kernel=lambda _: "0"), night)
        found = {name: each for name, each in run.targets["rpi4"].measurements.items() if name in left}
        record(with_target(run, measurements=found, validity=None), url)
    record(run_of(STEADY, 5), url)
    found = shown(url)
    assert found.breaks == ()
    assert [point.change is None for point in found.points] == [False, False, False, True, True, False]


def test_the_first_night_shown_knows_as_much_as_if_all_were(url: str) -> None:
    filled(url, replace(STEADY, slower=lambda night: 0.05 * (night >= 8)), 16)
    whole, part = shown(url), shown(url, nights=9)
    assert part.points == whole.points[-9:]
    assert ([each.at for each in whole.steps], [each.at for each in part.steps]) == ([8], [1])
    assert shown(url, nights=5).steps == ()


def test_only_nights_are_shown_and_only_the_last_until_then(url: str) -> None:
    record(make_result(), url)
    filled(url, STEADY, 6)
    record(run_of(replace(STEADY, target="rpi5"), 0), url)
    assert [point.started[:10] for point in shown(url, nights=2).points] == ["2025-01-05", "2025-01-06"]
    assert len(shown(url, until="2025-01-03T02:00:00Z").points) == 3


def test_a_series_that_was_never_measured_is_empty(url: str) -> None:
    assert shown(url).points == ()

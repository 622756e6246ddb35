"""A night's verdicts: what is alarmed, what is not, and why."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.farm.case import VARIANTS, Case, Past, Session, Thresholds
from pipeline.farm.judge import NightVerdict, judge
from pipeline.measurement.validity import Validity
from tests.results_for_tests import make_measurement, make_memory

PAIRS = 10
METRICS = ("latency", "memory", "size", "metric")


@functools.cache
def session(
    seed: int = 0,
    *,
    slower: float = 0.0,
    device: float = 0.0,
    noise: float = 0.005,
    metric: float = 0.9,
    memory: int = 0,
    size: int = 1000,
    state: Any = "valid",
) -> Session:
    """A session in which the candidate is slower by that share, and all variants by `device`."""
    random = np.random.default_rng(seed)
    measurements = {}
    for variant in VARIANTS:
        mine = variant == "candidate"
        measurement = make_measurement("dense", False, PAIRS, 3)
        level = np.log(1e6) + device + (np.log1p(slower) if mine else 0) + random.normal(0, 0.001)
        repetitions = tuple(
            each.model_copy(
                update={
                    "samples_ns": (int(np.exp(level + random.normal(0, noise))),) * 3,
                    "memory": make_memory(1_000_000 + memory * mine),
                }
            )
            for each in measurement.repetitions
        )
        change = {"variant": variant, "repetitions": repetitions, "metric": metric if mine else 0.9}
        measurements[variant] = measurement.model_copy(update=change)
    sizes = dict.fromkeys(VARIANTS, 1000) | {"candidate": size}
    return Session(measurements, Validity(state=state, reasons=("because",)), sizes)


def case(found: Session | None, past: Past | None = None, **thresholds: float) -> Case:
    return Case(
        "digits", "rpi4", "higher", found, past=past or nights(20), thresholds=Thresholds(**thresholds)
    )


@functools.cache
def nights(count: int, slower_for: int = 0, device_for: int = 0, slower: float = 0.01) -> Past:
    """So many nights, the candidate slower in the last `slower_for`, the device by 5 % in the last `device_for`."""
    made = [
        session(
            100 + night,
            slower=slower * (night >= count - slower_for),
            device=0.05 * (night >= count - device_for),
        )
        for night in range(count)
    ]
    return Past(
        np.array([each.logs("again", "baseline") for each in made]),
        np.array([each.logs("candidate", "canary").mean() for each in made]),
        np.array([each.latencies("canary").mean() for each in made]),
    )


def verdicts(
    found: Session | None, again: Sequence[Session] = (), past: Past | None = None, **thresholds: float
) -> Mapping[str, NightVerdict]:
    """Of one case among twenty that are well; the others are never measured anew but on chance suspicions."""
    others = [replace(case(session(1000 + number)), plan=f"other{number}") for number in range(19)]
    reruns = iter(range(5000, 6000))

    def rerun(suspected: Sequence[Case]) -> Sequence[Sequence[Session]]:
        return [
            again if each.plan == "digits" else [session(next(reruns)) for _ in range(3)]
            for each in suspected
        ]

    found_all = judge([case(found, past, **thresholds), *others], rerun)
    assert len(found_all) == 20 * len(METRICS)
    assert not [each for each in found_all if each.alarm and each.plan != "digits"]
    return {each.metric: each for each in found_all if each.plan == "digits"}


def slow(count: int = 3, **how: Any) -> list[Session]:
    return [session(2000 + number, **how) for number in range(count)]


def test_a_night_in_which_nothing_changed_passes_in_every_metric() -> None:
    found = verdicts(session())
    assert [each.outcome for each in found.values()] == ["pass"] * 4 and tuple(found) == METRICS
    rates = found["latency"].rates
    assert (
        rates is not None and rates.nights == 21 and rates.detectable is not None and rates.detectable < 0.03
    )


def test_a_slower_candidate_is_an_alarm_once_measured_anew() -> None:
    found = verdicts(session(slower=0.05), slow(slower=0.05))["latency"]
    assert (found.outcome, found.layer) == ("regressed", "in the night") and found.alarm
    assert found.change is not None and found.change.low is not None and found.change.low > 1.03
    assert "beside the baseline" in found.reason


def test_what_the_rerun_does_not_show_is_no_alarm() -> None:
    found = verdicts(session(slower=0.05), slow())["latency"]
    assert (found.outcome, found.reason) == ("pass", "suspected, and not confirmed when measured anew")


def test_what_cannot_be_measured_anew_is_not_green() -> None:
    found = verdicts(session(slower=0.05))["latency"]
    assert found.outcome == "invalid" and found.alarm and "could not be measured anew" in found.reason


def test_a_small_step_is_found_over_the_nights() -> None:
    past = nights(30, slower_for=9)
    found = verdicts(session(slower=0.01, noise=0.02), slow(slower=0.01), past)["latency"]
    assert (found.outcome, found.layer) == ("regressed", "over nights")
    assert "since 10 nights ago" in found.reason


def test_a_change_below_the_threshold_is_none() -> None:
    assert verdicts(session(slower=0.05), slow(slower=0.05), latency=0.1)["latency"].outcome == "pass"


def test_a_device_that_became_slower_is_no_regression_and_is_told() -> None:
    found = verdicts(session(device=0.05), past=nights(30, device_for=5))["latency"]
    assert found.outcome == "pass" and "the device itself changed by +5." in found.reason


def test_missing_data_is_an_alarm_in_every_metric() -> None:
    found = verdicts(None)
    assert [each.outcome for each in found.values()] == ["missing"] * 4
    whole = session()
    for variant in VARIANTS:
        part = {name: each for name, each in whole.measurements.items() if name != variant}
        found = verdicts(replace(whole, measurements=part))
        assert all(each.alarm and each.reason == f"not measured: {variant}" for each in found.values())


def test_an_invalid_session_is_an_alarm() -> None:
    found = verdicts(session(state="invalid"))
    assert [(each.outcome, each.reason) for each in found.values()] == [("invalid", "because")] * 4


def test_a_device_too_noisy_to_judge_is_said_to_be_so_and_never_green() -> None:
    found = verdicts(session(noise=0.2), detectable=0.1)["latency"]
    assert found.outcome == "unstable" and found.alarm and found.reason.startswith("too noisy")


@pytest.mark.parametrize(
    ("metric", "how", "limits"),
    [
        ("memory", {"memory": 1_000_000}, {"memory": 2.0}),
        ("metric", {"metric": 0.88}, {"metric": 0.02}),
        ("size", {"size": 1010}, {"size": 0.01}),
    ],
)
def test_other_metrics_have_thresholds_of_their_own(
    metric: str, how: dict[str, Any], limits: dict[str, float]
) -> None:
    found = verdicts(session(**how), slow(**how))
    assert [name for name, each in found.items() if each.alarm] == [metric]
    assert (found[metric].outcome, found[metric].layer) == ("regressed", "exact")
    assert not any(each.alarm for each in verdicts(session(**how), slow(**how), **limits).values())
    # A file's size is what it is; the others are measured anew.
    unconfirmed = verdicts(session(**how), slow())[metric]
    assert unconfirmed.outcome == ("regressed" if metric == "size" else "pass")


def test_less_memory_is_told_as_a_share_of_the_baselines() -> None:
    change = verdicts(session(memory=-500_000))["memory"].change
    assert change is not None and change.value == pytest.approx(0.5, abs=0.02)


def test_answers_that_are_no_numbers_are_missing() -> None:
    found = session()
    lost = found.measurements["candidate"].model_copy(update={"metric": None})
    found = replace(found, measurements={**found.measurements, "candidate": lost})
    assert verdicts(found)["metric"].outcome == "missing"


def test_answers_that_are_no_numbers_when_measured_anew_confirm_nothing() -> None:
    broken = session(3000)
    lost = broken.measurements["candidate"].model_copy(update={"metric": None})
    broken = replace(broken, measurements={**broken.measurements, "candidate": lost})
    for again in ([*slow(2, metric=0.5), broken], [*slow(2), broken]):
        found = verdicts(session(metric=0.5), again)["metric"]
        assert found.outcome == "invalid" and "gave no numbers" in found.reason


def test_a_new_segment_begins_without_a_past() -> None:
    found = verdicts(session(), past=Past())["latency"]
    assert found.outcome == "pass" and found.rates is not None and found.rates.nights == 1


def test_what_is_not_to_be_judged_has_no_verdict_and_is_not_measured_anew() -> None:
    def rerun(suspected: Sequence[Case]) -> Sequence[Sequence[Session]]:
        raise AssertionError(suspected)

    slower = replace(case(session(slower=0.5, memory=10_000_000)), judged=("size", "metric"))
    assert [(each.metric, each.outcome) for each in judge([slower], rerun)] == [
        ("size", "pass"),
        ("metric", "pass"),
    ]
    missing = replace(slower, session=None)
    assert [each.metric for each in judge([missing], rerun)] == ["size", "metric"]

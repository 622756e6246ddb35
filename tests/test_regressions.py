"""What is told apart from noise: pairs of one night, steps over nights, many series at once, a device's own rates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks._farm_nights import Noise, false_alarms, fleet, found_jumps, found_steps, judge
from pipeline.measurement.alarms import benjamini_hochberg, two_stage
from pipeline.measurement.change_points import SHORTEST, change_points, confirm_step, scan
from pipeline.measurement.error_rates import ASSUMED, between_sessions, error_rates
from pipeline.measurement.pairs import paired_test

SEEDS = st.integers(0, 2**32 - 1)


def test_the_paired_test_is_students_where_sessions_do_not_differ() -> None:
    logs = np.random.default_rng(0).normal(0.01, 0.02, (5, 7))
    found = paired_test(logs)
    expected = stats.ttest_1samp(logs, 0, axis=-1, alternative="greater")
    interval = stats.ttest_1samp(logs, 0, axis=-1).confidence_interval(0.95)
    np.testing.assert_allclose(found.p, expected.pvalue, rtol=1e-9)
    np.testing.assert_allclose([found.low, found.high], [interval.low, interval.high], rtol=1e-9)


def test_what_sessions_differ_by_is_a_floor_that_more_pairs_do_not_lower() -> None:
    pairs = np.tile([0.009, 0.011], (1, 5000))
    assert paired_test(pairs).p[0] < 1e-100
    floor = paired_test(pairs, between=0.01)
    assert floor.p[0] == pytest.approx(stats.norm.sf(1.0), rel=1e-3) and floor.low[0] < 0 < floor.high[0]
    # A floor that few nights know weighs less surely.
    assert paired_test(pairs, between=0.01, nights=5).p[0] == pytest.approx(stats.t.sf(1.0, 5), rel=1e-3)


@pytest.mark.parametrize(("change", "p"), [(0.01, 0.0), (-0.01, 1.0), (0.0, 1.0)])
def test_pairs_without_any_noise_are_certain(change: float, p: float) -> None:
    found = paired_test(np.full((1, 4), change))
    assert found.p[0] == p and found.low[0] == found.high[0] == pytest.approx(change)


def test_one_pair_tells_nothing() -> None:
    with pytest.raises(ValueError, match="two pairs or more, received 1"):
        paired_test(np.zeros((3, 1)))


@given(SEEDS, st.integers(10, 20), st.integers(10, 20), st.sampled_from([-1.0, 1.0]))
@settings(max_examples=50)
def test_a_step_far_above_the_noise_is_found_where_it_is(
    seed: int, before: int, after: int, way: float
) -> None:
    noise = np.random.default_rng(seed).normal(0, 0.001, before + after)
    series = 3 + noise + way * 0.1 * (np.arange(before + after) >= before)
    found = change_points(series, 1e-4)
    near = [point for point in found if point.at == before]
    assert len(near) == 1 and near[0].step == pytest.approx(way * 0.1, abs=0.01)


def test_several_steps_up_and_down_are_found_in_order() -> None:
    levels = [1.0] * 20 + [1.05] * 15 + [0.98] * 25 + [1.01] * 20
    series = np.array(levels) + np.random.default_rng(1).normal(0, 0.003, len(levels))
    found = change_points(series, 1e-3)
    assert [point.at for point in found] == [20, 35, 60]
    np.testing.assert_allclose([point.step for point in found], [0.05, -0.07, 0.03], atol=0.02)


def test_a_step_without_noise_is_found_and_a_constant_has_none() -> None:
    step = np.array([2.0] * 5 + [3.0] * 5)
    assert [point.at for point in change_points(step, 1e-6)] == [5]
    assert change_points(np.full(30, 0.1), 0.5) == []


@pytest.mark.parametrize("alike", [0.0, 0.5])
def test_in_noise_steps_are_found_no_oftener_than_said(alike: float) -> None:
    random, count = np.random.default_rng(2), 4000
    series = random.normal(size=(count, 30))
    for night in range(1, 30):
        series[:, night] = alike * series[:, night - 1] + np.sqrt(1 - alike**2) * series[:, night]
    rate = (scan(series).p <= 0.01).mean()
    # Of nights that resemble each other half, the correction takes most and not all.
    assert rate <= (0.01 if alike == 0 else 0.05)


def test_one_bad_night_is_no_step() -> None:
    series = np.random.default_rng(3).normal(0, 0.003, 30)
    series[[7, 19, 29]] += 0.2
    assert change_points(series, 1e-3) == []


def test_scanning_many_series_is_scanning_each() -> None:
    series = np.random.default_rng(4).normal(size=(6, 15))
    together = scan(series)
    for row, values in enumerate(series):
        alone = scan(values)
        assert (alone.at, alone.step, alone.p) == (together.at[row], together.step[row], together.p[row])


def test_the_scan_is_students_test_times_its_places_where_nights_do_not_resemble_each_other() -> None:
    series = np.array([0.0, 2, -2, 0, 2, -2, 0, 12, 9, 10, 12, 9, 11, 10])
    found = scan(series)
    assert found.at == 7 and found.alike == 0
    expected = stats.ttest_ind(series[7:], series[:7], alternative="greater").pvalue
    assert found.p == pytest.approx(expected * (len(series) - 2 * SHORTEST + 1), rel=1e-6)


def test_a_rerun_that_shows_nothing_confirms_nothing() -> None:
    before = np.random.default_rng(5).normal(0, 0.003, 20)
    none = np.zeros(())
    assert confirm_step(before, np.array([0.01, 0.011, 0.009]), none) < 1e-3
    assert confirm_step(before, before[-3:] - before[-3:].mean() + before.mean(), none) == pytest.approx(0.5)
    assert confirm_step(before, before[:3] + 0.01, none) < confirm_step(before, before[:3] + 0.01, none + 0.5)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0.001, 0.5))
def test_benjamini_hochberg_is_scipys(p: list[float], rate: float) -> None:
    expected = stats.false_discovery_control(p) <= rate
    found = benjamini_hochberg(np.array(p), rate)
    # Where p is k rate / m but for rounding, both are right.
    near = np.abs(np.subtract.outer(np.sort(p), rate * np.arange(1, len(p) + 1) / len(p))).min() < 1e-12
    assert near or (found == expected).all()


def test_two_stages_keep_what_they_say() -> None:
    random, alpha = np.random.default_rng(6), 0.02
    found = two_stage(*random.uniform(size=(2, 1_000_000)), alpha)
    for level in (1e-3, 5e-3, 2e-2):
        assert (found <= level).mean() == pytest.approx(level, rel=0.1)


def test_a_device_is_known_by_its_own_pairs() -> None:
    random = np.random.default_rng(7)
    logs = random.normal(0, 0.01, (40, 200, 1)) + random.normal(0, 0.01, (40, 200, 10))
    between = between_sessions(logs)
    # An upper bound that holds for nine in ten.
    assert 0.8 <= (between >= 0.01).mean() <= 0.99 and between.mean() == pytest.approx(0.0107, rel=0.05)
    rates = error_rates(logs[0])
    assert rates.nights == 200 and rates.false_alarm_rate is not None and rates.false_alarm_rate <= 0.05
    assert rates.false_alarm_bound is not None and rates.false_alarm_bound > rates.false_alarm_rate
    quiet = error_rates(logs[0] / 10)
    assert rates.detectable is not None and quiet.detectable is not None
    assert 0.04 < rates.detectable < 0.09 and quiet.detectable < rates.detectable / 9


def test_a_device_nobody_knows_is_taken_for_an_ordinary_one() -> None:
    assert between_sessions(np.zeros((3, 5))) == ASSUMED
    assert error_rates(np.zeros((0, 5))).detectable is None


def test_a_share_of_the_nights_that_the_bench_judges() -> None:
    quiet = [false_alarms(seed) for seed in range(2)]
    assert sum(each["in the night"] + each["over nights"] for each in quiet) == 0
    assert 10 <= sum(each["reruns"] for each in quiet) <= 200
    assert sum(found_steps(seed)["found"] for seed in range(4)) >= 18
    assert sum(found_jumps(seed)["found"] for seed in range(8)) >= 36


def test_what_the_device_does_to_all_variants_alike_is_no_regression() -> None:
    """The canary and the baseline are beside the candidate in every session."""
    made = fleet(1, 20, 40, Noise(device_steps=0.2, device_drift=0.5))
    assert np.ptp(made.device, axis=1).mean() > 0.3
    alarms = [judge(made, night, 0.005, 1) for night in range(40)]
    assert not any(each.in_the_night.any() or each.over_nights.any() for each in alarms)

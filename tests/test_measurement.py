from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from pipeline.measurement import gates, validity, verdict, winner
from pipeline.measurement.agreement import compare
from pipeline.measurement.measurement import Measurement, MemoryCourse, MemoryReading, Repetition
from pipeline.measurement.statistics import Estimate, Summary, percentile, ratio, summarise
from pipeline.plan import GatesSection, LatencyGate
from pipeline.stages.measure import turns

MIB = 1 << 20


def reading(rss: int, hwm: int) -> MemoryReading:
    return MemoryReading(rss=rss, hwm=hwm, anonymous=rss // 2, file=rss // 2, swap=0)


def repetition(samples_ns: Sequence[int], step: int = 0) -> Repetition:
    memory = MemoryCourse(
        before_load=reading(30 * MIB, 30 * MIB),
        after_load=reading(33 * MIB, 33 * MIB),
        after_first=reading(34 * MIB, 35 * MIB),
        steady=reading(34 * MIB, 35 * MIB),
    )
    return Repetition(
        step=step,
        load_ns=2_000_000,
        first_ns=500_000,
        warmup_ns=(100,),
        samples_ns=tuple(samples_ns),
        memory=memory,
        threads=1,
        clock={},
        versions={},
        operators=None,
    )


def measurement(variant: str, *repetitions: Sequence[int], metric: float | None = 0.9) -> Measurement:
    made = tuple(repetition(samples, step) for step, samples in enumerate(repetitions))
    return Measurement(
        variant=variant, digest=f"of {variant}", emulated=False, repetitions=made, metric=metric
    )


def test_turns_balance_a_drift() -> None:
    assert turns("ABC", 6) == list("ABCCBA" + "BCAACB" + "CABBAC")
    order = turns(["a", "b", "c"], 6)
    assert {name: sum(i for i, each in enumerate(order) if each == name) for name in "abc"} == dict.fromkeys(
        "abc", 51
    )


def test_summary_of_known_samples() -> None:
    found = summarise(measurement("dense", range(1_000_000, 1_000_101), range(1_000_000, 1_000_101)))
    assert found.p50_ms.value == pytest.approx(1.00005)
    assert found.minimum_ms == 1.0
    assert (found.load_ms, found.first_ms, found.samples) == (2.0, 0.5, 202)
    assert found.peak_memory_bytes == 5 * MIB
    assert found.steady_memory_bytes == 4 * MIB
    assert found.process_peak_bytes == 35 * MIB


def test_every_process_counts_alike_however_many_samples_it_had_time_for() -> None:
    fast, slow = np.full(1000, 0.2), np.full(200, 1.0)
    assert percentile([fast, fast, slow, slow], 50).value == pytest.approx(np.sqrt(0.2))
    assert percentile([fast, fast[:10], slow, slow], 50) == percentile([fast, fast, slow, slow], 50)


def test_an_interval_is_as_wide_as_processes_differ() -> None:
    steady = percentile([np.full(500, 1.0) for _ in range(6)], 50)
    assert (steady.low, steady.high) == (1.0, 1.0)
    moving = percentile([np.full(500, 1.0 + step / 10) for step in range(6)], 50)
    assert moving.low is not None and moving.high is not None
    assert moving.low < 1.15 < 1.3 < moving.high


def test_one_process_has_no_interval() -> None:
    found = percentile([np.array([1.0, 2.0, 3.0])], 50)
    assert (found.value, found.low, found.high) == (pytest.approx(2.0), None, None)


def test_the_quotient_of_two_medians_is_the_ratio() -> None:
    a, b = measurement("a", [10] * 3, [20] * 3, [30] * 3), measurement("b", [7] * 3, [11] * 3, [13] * 3)
    assert summarise(a).p50_ms.value / summarise(b).p50_ms.value == pytest.approx(ratio(a, b).value)


@pytest.mark.parametrize("count", [2, 3, 6])
def test_a_percentiles_interval_holds_the_truth_as_often_as_it_says(count: int) -> None:
    random = np.random.default_rng(11)
    held = 0
    for _ in range(600):
        found = percentile([np.full(5, np.exp(effect)) for effect in random.normal(0, 0.1, count)], 50)
        assert found.low is not None and found.high is not None
        held += found.low <= 1 <= found.high
    assert 0.92 <= held / 600 <= 0.98


def test_a_ratio_is_that_of_the_pairs() -> None:
    slow_drift = [1000, 1100, 1210, 1331]
    a = measurement("a", *[[2 * value] * 3 for value in slow_drift])
    b = measurement("b", *[[value] * 3 for value in slow_drift])
    found = ratio(a, b)
    assert found.value == pytest.approx(2)
    assert found.low == pytest.approx(2) and found.high == pytest.approx(2)


def test_a_ratio_interval_is_students() -> None:
    # log ratios 0, 0, ln 4: mean ln 4 / 3, deviation ln 4 / sqrt 3; t(0.975, 2) = 4.30265
    a = measurement("a", [100] * 3, [100] * 3, [400] * 3)
    b = measurement("b", [100] * 3, [100] * 3, [100] * 3)
    found = ratio(a, b)
    middle, half = np.log(4) / 3, 4.30265273 * np.log(4) / np.sqrt(3) / np.sqrt(3)
    assert found.value == pytest.approx(np.exp(middle))
    assert found.low == pytest.approx(np.exp(middle - half), rel=1e-6)
    assert found.high == pytest.approx(np.exp(middle + half), rel=1e-6)


def test_the_ratio_interval_holds_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(7)
    held = 0
    for _ in range(400):
        effects = random.normal(0, 0.05, (2, 6))
        a = measurement("a", *[[int(1e6 * np.exp(effect))] * 3 for effect in effects[0]])
        b = measurement("b", *[[int(1e6 * np.exp(effect))] * 3 for effect in effects[1]])
        found = ratio(a, b)
        assert found.low is not None and found.high is not None
        held += found.low <= 1 <= found.high
    assert 0.92 <= held / 400 <= 0.98


def test_whole_numbers_are_compared_without_overflow() -> None:
    least, greatest = np.array([[-128, 100]], np.int8), np.array([[-128, -100]], np.int8)
    assert compare(least, greatest).greatest_difference == pytest.approx(200 / 128)
    assert compare(np.array([[2]], np.uint8), np.array([[3]], np.uint8)).greatest_difference == 0.5
    assert not compare(np.array([[True]]), np.array([[False]])).agrees


def test_agreement() -> None:
    twin = np.array([[1.0, -10.0], [0.5, 2.0]])
    assert compare(twin, twin + 9e-4).agrees
    assert not compare(twin, twin + 1.1e-3).agrees
    assert compare(twin, twin + 5e-4).greatest_difference == pytest.approx(5e-5)
    spoilt = twin.copy()
    spoilt[0, 0] = np.nan
    for pair in ((twin, spoilt), (spoilt, spoilt), (twin, np.full_like(twin, np.inf))):
        assert not compare(*pair).agrees
    zeros = np.zeros((2, 2))
    assert compare(zeros, zeros).agrees and not compare(zeros, zeros + 1e-9).agrees
    with pytest.raises(ValueError, match="one shape"):
        compare(twin, twin[:1])


def sound(*, spread: float = 0) -> dict[str, Measurement]:
    return {
        name: measurement(name, [1000] * 5, [int(1000 * (1 + spread))] * 5)
        for name in ("baseline", "dense", "sparse")
    }


def state_of(measurements: dict[str, Measurement], environment: dict[str, Any]) -> str:
    return validity.check(measurements, environment, 2).state


def state(**changes: Any) -> dict[str, Any]:
    clocks = {"monotonic": 10.0, "boottime": 10.0, "realtime": 1e9}
    fields = {
        "load_average": [1.0],
        "cores": 2,
        "throttled": None,
        "peak_memory_resets": True,
        "clocks_s": clocks,
    }
    return fields | changes


QUIET = {"before": state(), "after": state()}


def test_validity() -> None:
    assert validity.check(sound(), QUIET, 2) == validity.Validity(state="valid")
    assert state_of({"dense": sound(spread=0.3)["dense"]}, QUIET) == "suspect"
    missing = validity.check(sound(), QUIET, 3)
    assert missing.state == "invalid" and "baseline: 2 repetitions, expected 3" in missing.reasons
    frozen = {"dense": measurement("dense", [0] * 5, [10] * 5)}
    assert state_of(frozen, QUIET) == "invalid"


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ({"load_average": [3.0]}, {}, "busy before it began: load 3.0 on 2 cores"),
        ({"peak_memory_resets": False}, {}, "high-water mark"),
        ({}, {"clocks_s": {"monotonic": 20.0, "boottime": 35.0, "realtime": 1e9 + 25}}, "slept for 15.0 s"),
        ({}, {"clocks_s": {"monotonic": 20.0, "boottime": 20.0, "realtime": 1e9 + 70}}, "moved by +60.0 s"),
    ],
)
def test_what_the_device_did_meanwhile_makes_it_suspect(
    before: dict[str, Any], after: dict[str, Any], words: str
) -> None:
    found = validity.check(sound(), {"before": state(**before), "after": state(**after)}, 2)
    assert found.state == "suspect" and len(found.reasons) == 1 and words in found.reasons[0]


def with_processes(**changes: Any) -> dict[str, Measurement]:
    """Sound measurements, the second process of `dense` changed."""
    made = sound()
    first, second = made["dense"].repetitions
    changed = second.model_copy(update=changes)
    return {**made, "dense": made["dense"].model_copy(update={"repetitions": (first, changed)})}


def at_frequencies(*hertz: int) -> dict[str, Measurement]:
    rates = iter(hertz)
    return {
        name: each.model_copy(
            update={
                "repetitions": tuple(
                    one.model_copy(
                        update={"environment": {"frequencies_hz": {"cpu0": next(rates), "cpu1": 10**8}}}
                    )
                    for one in each.repetitions
                )
            }
        )
        for name, each in sound().items()
    }


COUNTED = MemoryReading(rss=64 * MIB, hwm=64 * MIB, anonymous=0, file=0, swap=0, rss_by_page=60 * MIB)


@pytest.mark.parametrize(
    ("measurements", "words"),
    [
        (with_processes(steady=False), "dense: 1 of 2 processes were not steady when sampling began"),
        (
            with_processes(waited_ns=500),
            "dense: other programs took its core: a process waited for 9% of its",
        ),
        (at_frequencies(15, 15, 15, 15, 15, 12 * 10**8), "frequency moved: 100 to 1,200 MHz"),
        (
            with_processes(memory=repetition([1]).memory.model_copy(update={"steady": COUNTED})),
            "dense: two counters of its resident memory differ by 4,194,304 bytes",
        ),
    ],
)
def test_what_happened_to_a_process_makes_it_suspect(
    measurements: dict[str, Measurement], words: str
) -> None:
    found = validity.check(measurements, QUIET, 2)
    assert found.state == "suspect" and len(found.reasons) == 1 and words in found.reasons[0]


def test_what_is_within_bounds_leaves_it_valid() -> None:
    close = COUNTED.model_copy(update={"rss_by_page": 64 * MIB - 100_000})
    memory = repetition([1]).memory.model_copy(update={"steady": close})
    for measurements in (
        with_processes(steady=None, waited_ns=50, memory=memory),
        at_frequencies(*[15 * 10**8] * 5, 14 * 10**8),
    ):
        assert state_of(measurements, QUIET) == "valid"


def drifting(change: float, noise: float, random: np.random.Generator) -> dict[str, Measurement]:
    """Three variants of different speed in 6 turns, over which everything grows slower by `change`."""
    made: dict[str, list[Repetition]] = {"baseline": [], "dense": [], "sparse": []}
    order = turns(list(made), 6)
    for step, name in enumerate(order):
        middle = (
            (2 + len(name))
            * 1e6
            * (1 + change) ** (step / (len(order) - 1))
            * np.exp(random.normal(0, noise))
        )
        made[name].append(repetition([int(middle)] * 3, step))
    return {
        name: Measurement(variant=name, digest=name, emulated=False, repetitions=tuple(each), metric=None)
        for name, each in made.items()
    }


def test_a_drift_is_told_from_noise() -> None:
    random = np.random.default_rng(3)
    found = validity.check(drifting(0.2, 0.01, random), QUIET, 6)
    assert found.state == "suspect" and "drifted by +20%" in found.reasons[0].replace("19%", "20%")
    clean = [validity.check(drifting(0, 0.03, random), QUIET, 6).state for _ in range(500)]
    assert clean.count("suspect") <= 0.02 * 500
    heated = [validity.check(drifting(0.15, 0.02, random), QUIET, 6).state for _ in range(100)]
    assert heated.count("suspect") >= 95


def test_throttling_before_the_session_is_none_of_it() -> None:
    assert (
        state_of(sound(), {"before": state(throttled=0x50000), "after": state(throttled=0x50000)}) == "valid"
    )


def test_a_device_that_says_nothing_of_its_state_is_suspect() -> None:
    assert state_of(sound(), {}) == state_of(sound(), {"before": state()}) == "suspect"


def summary(p50: float = 2.0, metric: float | None = 0.9, memory: int = 1000) -> Summary:
    estimate = Estimate(value=p50, low=p50, high=p50)
    return Summary(
        samples=10,
        load_ms=1,
        first_ms=1,
        minimum_ms=p50,
        p50_ms=estimate,
        p90_ms=estimate,
        p99_ms=estimate,
        peak_memory_bytes=memory,
        steady_memory_bytes=memory,
        process_peak_bytes=memory,
        metric=metric,
    )


def held(
    limits: GatesSection, emulated: bool = False, direction: Any = "higher", **mine: Any
) -> dict[str, bool]:
    found = gates.hold(limits, summary(**mine), summary(metric=0.95), 5000, direction, emulated)
    assert winner.passed(found) == all(each.passed or each.advisory for each in found)
    return {each.name: each.passed for each in found}


def test_gates_hold_what_the_plan_limits_and_nothing_else() -> None:
    assert held(GatesSection(max_metric_drop=None)) == {}
    limits = GatesSection(
        max_metric_drop=0.05,
        max_latency_ms=LatencyGate(p50=2.0, p99=1.9),
        max_file_bytes=4999,
        max_memory_bytes=1000,
    )
    assert held(limits, metric=0.91) == {
        "max_metric_drop": True,
        "max_latency_ms.p50": True,
        "max_latency_ms.p99": False,
        "max_file_bytes": False,
        "max_memory_bytes": True,
    }
    assert held(limits, metric=0.89)["max_metric_drop"] is False
    assert held(limits, metric=None)["max_metric_drop"] is False


def test_a_drop_is_counted_in_the_metrics_own_direction() -> None:
    limits = GatesSection(max_metric_drop=0.02)
    assert held(limits, direction="lower", metric=0.5) == {"max_metric_drop": True}
    assert held(limits, direction="lower", metric=0.98) == {"max_metric_drop": False}


def test_absolute_figures_of_an_emulated_device_are_advisory_unless_the_plan_says_otherwise() -> None:
    limits = GatesSection(max_latency_ms=LatencyGate(p50=1.0), max_memory_bytes=10, max_file_bytes=10)
    for counts, failing in (
        (False, {"max_file_bytes"}),
        (True, {"max_file_bytes", "max_latency_ms.p50", "max_memory_bytes"}),
    ):
        found = gates.hold(
            limits.model_copy(update={"emulated_counts": counts, "max_metric_drop": None}),
            summary(),
            summary(),
            5000,
            "higher",
            emulated=True,
        )
        assert {each.name for each in found if not (each.passed or each.advisory)} == failing


def test_a_value_on_the_limit_passes_whatever_the_floats_say() -> None:
    limits = GatesSection(max_metric_drop=0.02)
    for right in range(20, 450):
        found = gates.hold(
            limits, summary(metric=(right - 9) / 450), summary(metric=right / 450), 1, "higher", False
        )
        assert found[0].passed


def test_a_failed_gate_says_by_how_much() -> None:
    (found,) = gates.hold(
        GatesSection(max_metric_drop=None, max_file_bytes=4000), summary(), summary(), 5000, "higher", False
    )
    assert found.sentence == "max_file_bytes: 5,000 bytes, limit 4,000 bytes: failed by 1,000 bytes"


GOOD = gates.Gate(name="g", limit=1, value=1, unit="", passed=True, advisory=False)
BAD = gates.Gate(name="g", limit=1, value=2, unit="", passed=False, advisory=False)


def chosen(
    sparse_ns: Sequence[int], sparse_bytes: int, dense_gate: Any = GOOD, sparse_gate: Any = GOOD
) -> Any:
    measurements = {
        "baseline": measurement("baseline", *[[10]] * 4),
        "dense": measurement("dense", *[[value] for value in (1000, 1010, 990, 1000)]),
        "sparse": measurement("sparse", *[[value] for value in sparse_ns]),
    }
    held = {"dense": (dense_gate,), "sparse": (sparse_gate,)}
    return winner.choose(measurements, held, {"dense": 5000, "sparse": sparse_bytes})


def test_the_faster_wins_even_when_it_is_larger() -> None:
    found = chosen([500, 505, 495, 500], 9000)
    assert (found.variant, found.verdict) == ("sparse", "sparse wins")


def test_the_slower_loses_even_when_it_is_smaller() -> None:
    found = chosen([1500, 1510, 1490, 1500], 100)
    assert (found.variant, found.verdict) == ("dense", "dense wins")
    assert "1.500 of dense's time" in found.reason


@pytest.mark.parametrize(
    ("size", "variant", "said"), [(4999, "sparse", "sparse for size only"), (5000, "dense", "dense wins")]
)
def test_without_a_difference_in_speed_size_decides_and_dense_breaks_a_tie(
    size: int, variant: str, said: str
) -> None:
    found = chosen([1000, 900, 1100, 1005], size)
    assert (found.variant, found.verdict) == (variant, said)


def test_one_file_wins_no_race_against_itself() -> None:
    dense = measurement("dense", *[[value] for value in (1000, 1010, 990, 1000)])
    sparse = measurement("sparse", *[[value] for value in (500, 505, 495, 500)])
    twins = {"dense": dense, "sparse": sparse.model_copy(update={"digest": dense.digest})}
    found = winner.choose(twins, {"dense": (GOOD,), "sparse": (GOOD,)}, {"dense": 5000, "sparse": 5000})
    assert found is not None and (found.variant, found.verdict) == ("dense", "dense wins")
    assert "one and the same file" in found.reason


def test_a_variant_that_failed_a_gate_is_not_chosen_nor_is_the_baseline() -> None:
    assert chosen([500] * 4, 100, sparse_gate=BAD).variant == "dense"
    assert chosen([5000] * 4, 9000, dense_gate=BAD).variant == "sparse"
    assert chosen([500] * 4, 100, dense_gate=BAD, sparse_gate=BAD) is None


def test_verdicts_against_the_baseline() -> None:
    measurements = {
        "baseline": measurement("baseline", *[[value] for value in (1000, 1001, 999, 1000)], metric=0.95),
        "sparse": measurement("sparse", *[[value] for value in (1100, 1101, 1099, 1100)], metric=0.96),
    }
    summaries = {name: summarise(each) for name, each in measurements.items()}
    sizes = {"baseline": 100, "sparse": 40}
    found = verdict.against_baseline(measurements, summaries, sizes, "sparse", "accuracy", "higher")
    assert {each.metric: each.outcome for each in found} == {
        "p50_ms": "regressed",
        "peak_memory_bytes": "pass",
        "file_bytes": "pass",
        "accuracy": "pass",
    }
    noisy = {
        **measurements,
        "sparse": measurement("sparse", *[[value] for value in (500, 2000, 800, 3000)], metric=None),
    }
    summaries = {name: summarise(each) for name, each in noisy.items()}
    found = verdict.against_baseline(noisy, summaries, sizes, "sparse", "accuracy", "higher")
    assert {each.metric: each.outcome for each in found}["p50_ms"] == "unstable"
    assert {each.metric: each.outcome for each in found}["accuracy"] == "missing"

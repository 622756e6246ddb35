"""Which doubts make a session suspect, which make it invalid, and that quiet sessions are left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.measurement import validity
from pipeline.measurement.measurement import Measurement
from pipeline.stages.measure import turns
from tests.test_measurement import QUIET, repetition, state

NAMES = ("baseline", "dense", "sparse")


def session(
    *, noise: float = 0.0, slower: float = 0.0, emulated: bool = False, seed: int = 0, **changes: Any
) -> dict[str, Measurement]:
    """Three variants in 6 turns; a process's samples differ by `noise`, the last half of the processes take longer by
    `slower`; `changes` to each process may be functions of its step."""
    random = np.random.default_rng(seed)
    made: dict[str, list[Any]] = {name: [] for name in NAMES}
    order = turns(list(NAMES), 6)
    for step, name in enumerate(order):
        level = 1e7 * (1 + slower * (step >= len(order) // 2)) * np.exp(random.normal(0, noise / 10))
        samples = (level * np.exp(random.normal(0, noise, 40))).astype(int).tolist()
        changed = {key: value(step) if callable(value) else value for key, value in changes.items()}
        made[name].append(repetition(samples, step).model_copy(update=changed))
    return {
        name: Measurement(variant=name, digest=name, emulated=emulated, repetitions=tuple(each), metric=None)
        for name, each in made.items()
    }


def check(measurements: dict[str, Measurement], **after: Any) -> validity.Validity:
    return validity.check(measurements, {**QUIET, "after": state(**after)}, 6)


def beside(**environment: Any) -> dict[str, Any]:
    return {"environment": environment}


def clocks(monotonic: int, **others: int) -> dict[str, Any]:
    return beside(
        clocks_ns={"monotonic": monotonic, "boottime": monotonic, "monotonic_raw": monotonic, **others}
    )


def at_rates(first: int, then: int) -> dict[str, Any]:
    """In the second half of the session the core runs otherwise."""
    return {"environment": lambda step: {"frequencies_hz": {"cpu0": first if step < 9 else then}}}


def shared(share: float) -> dict[str, Any]:
    return {"waited_ns": int(40e7 * share / (1 - share))}


def moving(change: float) -> dict[str, Any]:
    """Every process's samples move by `change`, from a warm-up that did not come to rest."""
    samples = tuple(int(each) for each in np.geomspace(1e7, 1e7 * (1 + change), 40))
    return {"steady": False, "samples_ns": samples}


SWAPPED = repetition([1]).memory.steady.model_copy(update={"swap": 4096})
LOST = {"memory": repetition([1]).memory.model_copy(update={"steady": SWAPPED})}


@pytest.mark.parametrize(
    ("measurements", "words"),
    [
        (session(**beside(throttled=0x4)), "throttled or short of voltage (vcgencmd get_throttled: 0x4)"),
        (session(**beside(throttled=0x20000)), "get_throttled: 0x20000"),
        (session(slower=0.4, **at_rates(15 * 10**8, 10**9)), "1,000 to 1,500 MHz, and medians by 40%"),
        (session(**shared(0.4)), "other programs took its core: half of all processes waited for 40%"),
        (session(**LOST, **beside(swapped_pages={"in": 200, "out": 100})), "the device swapped 300 pages"),
        (
            session(**clocks(10**9, monotonic_raw=1_002 * 10**6)),
            "in 1,000.0 ms of sampling monotonic_raw went +2.0",
        ),
        (session(**clocks(10**9, boottime=1_500 * 10**6)), "boottime went +500.0 ms further"),
        (session(**moving(0.3)), "6 of 6 processes were not steady when sampling began, and the times of 6"),
        (session(slower=0.6), "times drifted by +"),
    ],
)
def test_what_its_figures_show_makes_a_session_invalid(
    measurements: dict[str, Measurement], words: str
) -> None:
    found = check(measurements)
    assert found.state == "invalid" and any(words in reason for reason in found.reasons), found
    emulated = {name: each.model_copy(update={"emulated": True}) for name, each in measurements.items()}
    assert check(emulated) == found.model_copy(update={"state": "suspect"})


@pytest.mark.parametrize(
    ("measurements", "words"),
    [
        (session(**at_rates(15 * 10**8, 10**9)), "the processor's frequency moved: 1,000 to 1,500 MHz"),
        (session(**shared(0.1)), "other programs took its core: a process waited for 10%"),
        (
            session(samples_ns=(1000,) * 1000, waited_ns=9_000_000),
            "other programs took its core: a process waited for 90%",
        ),
        (session(**LOST), "a part of its memory was swapped out"),
        (session(**beside(swapped_pages={"in": 300, "out": 0})), "the device swapped 300 pages beside"),
        (session(**moving(0.05)), "6 of 6 processes were not steady when sampling began"),
        (session(slower=0.15), "times drifted by +"),
        (
            session(**beside(neighbours=[{"name": "hog", "share": 0.5}, {"name": "hog", "share": 0.4}])),
            "another program was at work: hog took 90% of a core beside 18 of 18 processes",
        ),
    ],
)
def test_a_cause_or_an_effect_alone_makes_a_session_suspect(
    measurements: dict[str, Measurement], words: str
) -> None:
    found = check(measurements)
    assert found.state == "suspect" and any(words in reason for reason in found.reasons), found


@pytest.mark.parametrize(("status", "expected"), [(0, "valid"), (1, "suspect"), (2, "invalid")])
def test_a_phones_thermal_status_weighs_by_its_grade(status: int, expected: str) -> None:
    assert check(session(), thermal_status=status).state == expected


def test_lacking_figures_are_invalid_on_an_emulated_device_too() -> None:
    assert validity.check(session(emulated=True), QUIET, 7).state == "invalid"


def test_the_gravest_reason_comes_first() -> None:
    found = check(session(**{**shared(0.1), **beside(throttled=0x1)}))
    assert found.state == "invalid" and "throttled" in found.reasons[0] and len(found.reasons) == 4


def test_quiet_sessions_are_left_alone() -> None:
    """What a quiet device shows: noise, clocks that are corrected, a frequency that dithers, a little swapping."""
    random = np.random.default_rng(5)

    def quiet(step: int) -> dict[str, Any]:
        elapsed = int(5e8)
        return {
            "clocks_ns": {
                "monotonic": elapsed,
                "boottime": elapsed + int(random.integers(-50_000, 50_000)),
                "monotonic_raw": int(elapsed * (1 + 5e-4 * random.uniform(-1, 1))),
            },
            "frequencies_hz": {"cpu0": int(1.5e9 * random.uniform(0.95, 1))},
            "swapped_pages": {"in": int(random.integers(0, 100)), "out": 0},
            "neighbours": [{"name": "daemon", "share": 0.1}],
            "throttled": 0x50000,
        }

    before = {**QUIET, "before": state(throttled=0x50000), "after": state(throttled=0x50000)}
    made = [
        session(noise=0.1, seed=seed, steady=True, waited_ns=100_000, environment=quiet)
        for seed in range(500)
    ]
    marked = sum(validity.check(each, before, 6).state != "valid" for each in made)
    assert marked <= 0.02 * len(made)

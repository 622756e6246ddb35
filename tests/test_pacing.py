"""A model invoked at a fixed rate, and back to back for long."""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import Any

import pytest

from device_agents.pacing import paced
from device_agents.sustaining import sustained
from pipeline.errors import UserError
from pipeline.measurement import deadlines, endurance, gates
from pipeline.measurement.measurement import Paced, Sustained, Window
from pipeline.measurement.statistics import summarise
from pipeline.plan import GatesSection, plan_model
from pipeline.reports import html
from pipeline.strict_yaml import read_values
from tests.agent_process import PROTOCOL, Agent, time_step
from tests.page import Page, rows, section
from tests.results_for_tests import make_result, with_targets

MILLISECOND = 1_000_000


class Application:
    """A clock that only sleeping, half a millisecond too long, and work of these lengths in milliseconds move on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *lengths: float) -> None:
        self.now, self.lengths = 0, list(lengths)
        monkeypatch.setattr(time, "perf_counter_ns", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += round(seconds * 1e9) + MILLISECOND // 2

    def prepare(self) -> None:
        self.now += MILLISECOND

    def run(self) -> None:
        assert not gc.isenabled()
        self.now += round(self.lengths.pop(0) * MILLISECOND)


def test_releases_known_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a period of 10 ms: 12 ms of work, with half a millisecond to wake up and one to copy the input, drop the next
    release, 30 ms the next three; what ends within the period drops none."""
    application = Application(monkeypatch, 2, 12, 30, 2)
    found = paced(application.prepare, application.run, period_ms=10, deadline_ms=9, seconds=0.08)
    assert gc.isenabled() and not application.lengths
    assert found["late_ns"] == [500_000, 500_000, None, 500_000, None, None, None, 500_000]
    ends = [3.5, 13.5, None, 31.5, None, None, None, 3.5]
    assert found["response_ns"] == [None if each is None else round(each * MILLISECOND) for each in ends]
    told = deadlines.summarise([Paced.model_validate(found)] * 2)
    assert (told.releases, told.misses, told.dropped, told.longest_streak) == (16, 12, 8, 6)
    assert (told.miss_share, told.jitter.p50, told.response.greatest) == (0.75, 0.5, 31.5)
    assert told.sentence.startswith(
        "12 of 16 deadlines of 9 ms missed, at most 6 in a row; started 0.5 ms (p50)"
    )


def made(*response_ms: float | None) -> Paced:
    response = tuple(None if each is None else round(each * MILLISECOND) for each in response_ms)
    return Paced(
        period_ns=10 * MILLISECOND,
        deadline_ns=10 * MILLISECOND,
        late_ns=tuple(None if each is None else 0 for each in response),
        response_ns=response,
    )


def test_what_ends_on_its_deadline_has_kept_it() -> None:
    found = deadlines.summarise([made(10, 10, 10)])
    assert (found.misses, found.longest_streak) == (0, 0) and "in a row" not in found.sentence


def test_a_streak_does_not_reach_from_one_process_into_the_next() -> None:
    assert deadlines.summarise([made(1, 11, 11), made(11, None, 1)]).longest_streak == 2


def sustained_for(*medians_ms: float) -> Sustained:
    windows = tuple(
        Window(
            at_s=15.0 * number,
            count=10,
            median_ns=round(each * MILLISECOND),
            longest_ns=round(each * MILLISECOND),
            temperature_c=50.0 + number,
            frequency_hz=None,
        )
        for number, each in enumerate(medians_ms)
    )
    return Sustained(step=9, seconds=15.0 * len(windows), windows=windows)


def test_a_drift_is_the_last_quarter_beside_the_first() -> None:
    found = endurance.summarise(sustained_for(10, 10, 11, 11, 12, 12, 13, 13))
    assert (found.first_ms, found.last_ms, found.inferences) == (10, 13, 80)
    assert found.change == pytest.approx(0.3)
    # By hand: sum (x - 3.5)(y - 11.5) = 20 over sum (x - 3.5)^2 = 42, four windows a minute.
    assert found.slope_per_minute == pytest.approx(4 * 20 / 42)
    assert found.sentence.startswith(
        "thermal drift: back to back for 120 s the last quarter's median was +30.0%"
    )
    assert found.sentence.endswith("50 to 57 C")
    steady = endurance.summarise(sustained_for(10))
    assert (steady.change, steady.slope_per_minute) == (0, 0) and steady.sentence.startswith("back to back")


def test_windows_hold_a_second_or_one_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    application = Application(monkeypatch, 399, 399, 399, 2999, 1)
    gc.disable()
    try:
        windows = sustained(application.prepare, application.run, 4.0)
    finally:
        gc.enable()
    assert [(each["at_s"], each["count"], each["median_ns"]) for each in windows] == [
        (0.0, 3, 399 * MILLISECOND),
        (1.2, 1, 2999 * MILLISECOND),
    ]


def test_an_agent_paces_and_sustains(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    protocol = {**PROTOCOL, "deadline": {"period_ms": 5, "deadline_ms": 4, "seconds": 0.05}}
    last = {"kind": "sustain", "variant": "a", "seconds": 0.01, "cool_down_seconds": 0}
    job = agent.measurement(time_step("a"), last, models={"a": ""}, protocol=protocol)
    events = agent.answer(**job)
    assert [event["event"] for event in events] == [
        "environment",
        "repetition",
        "environment",
        "sustained",
        "done",
    ]
    found = Paced.model_validate(events[1]["paced"])
    assert (found.period_ns, found.deadline_ns, len(found.response_ns)) == (5_000_000, 4_000_000, 10)
    assert events[3]["step"] == 1 and events[3]["windows"][0]["count"] > 0
    refused = {**protocol, "deadline": {**protocol["deadline"], "period_ms": 0}}
    assert "period_ms to be above zero" in agent.error(**{**job, "protocol": refused})["message"]


def result_with(paced_: Paced, lasting: Sustained, limits: GatesSection) -> Any:
    """A result in which every process was paced, and every variant sustained."""
    result = make_result()
    target = result.targets["local"]
    measurements = {
        name: each.model_copy(
            update={
                "repetitions": tuple(one.model_copy(update={"paced": paced_}) for one in each.repetitions),
                "sustained": lasting,
            }
        )
        for name, each in target.measurements.items()
    }
    summaries = {name: summarise(each) for name, each in measurements.items()}
    held = {
        name: gates.hold(limits, each, summaries["baseline"], 1, "higher", False)
        for name, each in summaries.items()
    }
    update = {"measurements": measurements, "summaries": summaries, "gates": held}
    return with_targets(result, local=target.model_copy(update=update))


def test_misses_are_on_the_page_and_held_against_their_gate() -> None:
    limits = GatesSection(max_metric_drop=None, max_deadline_misses=0.25)
    result = result_with(made(1, 1, 12, None), sustained_for(10, 12), limits)
    gate = result.targets["local"].gates["sparse"][0]
    assert gate.sentence == "max_deadline_misses: 0.5, limit 0.25: failed by 0.25"
    part = section(Page(html.render(result)).root, "local")
    table = rows(next(part.all("table", class_="variants")))
    assert [cell.text.strip() for cell in table["deadlines missed"]] == ["12 of 24"] * 3
    assert [cell.text.strip() for cell in table["back to back, change"]] == ["+20.0%"] * 3
    unpaced = make_result().targets["local"].summaries["sparse"]
    missing = gates.hold(limits, unpaced, unpaced, 1, "higher", False)[0]
    assert missing.value is None and not missing.passed


@pytest.mark.parametrize(
    ("measure", "words"),
    [
        ({}, "gates.max_deadline_misses: needs a deadline to miss"),
        ({"deadline": {"period_ms": 0.01, "seconds": 5}}, "100,000 periods at most"),
        ({"deadline": {"period_ms": 9000}}, "one period at least, received 5"),
    ],
)
def test_a_deadline_that_cannot_be_kept_is_refused(
    measure: dict[str, Any], words: str, tmp_path: Path
) -> None:
    values = {
        "name": "x",
        "model": {"source": "model.keras"},
        "data": {"source": "sklearn:iris"},
        "measure": measure,
        "gates": {"max_deadline_misses": 0.1},
    }
    tmp_path.joinpath("model.keras").touch()
    with pytest.raises(UserError, match=words):
        read_values(values, plan_model(), overrides=(), folder=tmp_path, name="plan")

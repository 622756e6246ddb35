"""The page that shows a result."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from pipeline.measurement.validity import Validity
from pipeline.plan import GatesSection, LatencyGate
from pipeline.reports import html, notation, terminal
from pipeline.result import InvalidSession, Result
from tests.page import Element, Page, figures, rows, section
from tests.results_for_tests import (
    AGREEMENT,
    make_bare_result,
    make_failed_target,
    make_model,
    make_result,
    with_targets,
)

HOSTILE = "</script><script>alert(1)</script><!-- \"'><img src=x onerror=alert(2)> {{ 7 * 7 }}"


@pytest.fixture(scope="module")
def result() -> Result:
    return make_result()


@pytest.fixture(scope="module")
def page(result: Result) -> Element:
    return Page(html.render(result)).root


def test_every_decision_and_its_reason_is_on_the_page(result: Result, page: Element) -> None:
    assert result.model is not None
    text = section(page, "The model").text
    for layer in result.model.layers:
        assert all(word in text for word in (layer.layer, layer.kind, layer.action, layer.reason))
    assert "50,176 -> 10,035" in text and "32 -> 16" in text


def test_what_was_made_for_a_target_is_in_its_section(result: Result, page: Element) -> None:
    for name, target in result.targets.items():
        assert target.encoded is not None
        text = section(page, name).text
        for encoding in target.encoded.encodings:
            assert all(
                word in text
                for word in (encoding.operator, encoding.tensor, encoding.encoding, encoding.reason)
            )
        assert "ai-edge-litert on arm" in text and "stem (1)" in text and "1,024 weights then" in text
        assert notation.agreement(target.encoded.agreement) in text


def test_every_figure_of_every_variant_is_in_the_table(result: Result, page: Element) -> None:
    for name, target in result.targets.items():
        table = rows(next(section(page, name).all("table", class_="variants")))
        for at, summary in enumerate(target.summaries.values()):
            for title, estimate in (
                ("p50", summary.p50_ms),
                ("p90", summary.p90_ms),
                ("p99", summary.p99_ms),
            ):
                cell = table[f"latency {title}"][at].text
                assert notation.milliseconds(estimate.value) in cell and notation.interval(estimate) in cell
            for title, value in (
                ("loading", notation.milliseconds(summary.load_ms)),
                ("first inference", notation.milliseconds(summary.first_ms)),
                ("memory, at most", notation.size(summary.peak_memory_bytes)),
                ("memory, steady", notation.size(summary.steady_memory_bytes)),
                ("accuracy on the device", notation.score(summary.metric)),
            ):
                assert value in table[title][at].text
        assert [cell.text.strip() for cell in table["file, bytes"]] == ["412,856", "412,856", "121,304"]


def test_what_follows_from_the_figures_is_on_the_page(result: Result, page: Element) -> None:
    for name, target in result.targets.items():
        text = section(page, name).text
        assert target.winner is not None and target.validity is not None
        assert f"Winner: {target.winner.variant}" in text and target.winner.reason in text
        assert target.headline in text and f"The measurement is {target.validity.state}" in text
        for verdict in target.verdicts:
            assert notation.respect(verdict) in text and notation.change(verdict) in text
        for gate in [gate for gates in target.gates.values() for gate in gates]:
            assert gate.name in text and notation.gate_amount(gate.limit, gate.unit) in text
    text = section(page, "The run").text
    assert "from cache" in text and "made" in text and result.stages[0].key[:16] in text


def test_what_ran_is_on_the_page_and_in_the_terminal(result: Result, page: Element) -> None:
    for name, target in result.targets.items():
        text = section(page, name).text
        for variant, found in target.operators.items():
            assert f"{variant}: {'; '.join(found.sentences)}" in " ".join(text.split())
        account = target.operators["dense"].account
        assert account is not None and account in text
        assert "Fully Connected (NC, F32) GEMM 2" in text and "52.6 %" in text
    console = Console(width=100, record=True, file=StringIO())
    console.print(terminal.operators(result.targets["local"].operators["dense"]), terminal.summary(result))
    said = " ".join(console.export_text().split())
    assert "between its kernels XNNPACK 0.0001 21.1 %" in said
    assert "sparse: the runtime's own kernels ran 2 FULLY_CONNECTED, SOFTMAX" in said


def test_every_absolute_figure_of_an_emulated_device_says_so(page: Element) -> None:
    emulated, local = section(page, "rpi4"), section(page, "local")
    table = rows(next(emulated.all("table", class_="variants")))
    exact = {"on rpi4", "file, bytes", "accuracy on the device", "samples"}
    for title, cells in table.items():
        for cell in cells:
            assert bool(list(cell.all(class_="emulated"))) == (title not in exact), title
    verdicts, gates = (
        next(each for each in emulated.all("table") if words in each.text) for words in ("verdict", "gate")
    )
    for title, cells in rows(verdicts).items():
        marks = [bool(list(cell.all(class_="emulated"))) for cell in cells[:2]]
        assert marks == [title in ("median latency", "memory, at most")] * len(marks)
    for row in gates.all("tr"):
        assert bool(list(row.all(class_="emulated"))) == ("max_memory" in row.text)
    assert all("EMULATED" in figure for figure in figures(emulated))
    assert not list(local.all(class_="emulated")) and "emulated" not in local.text.lower()
    assert not any("EMULATED" in figure for figure in figures(local))


def test_the_figures_hold_the_raw_samples(result: Result, page: Element) -> None:
    for name, target in result.targets.items():
        part = section(page, name)
        raw = [
            [ns / 1e6 for repetition in measurement.repetitions for ns in repetition.samples_ns]
            for measurement in target.measurements.values()
        ]
        by_variant, by_process = map(json.loads, figures(part))
        assert [trace["x"] for trace in by_variant["data"]] == raw
        assert [trace["y"] for trace in by_process["data"]] == raw
        steps = {
            repetition.step + 1 for each in target.measurements.values() for repetition in each.repetitions
        }
        assert by_process["layout"]["xaxis"]["categoryarray"] == [str(step) for step in sorted(steps)]
        for place in part.all(class_="figure"):
            assert next(page.all("script", id=f"{place.attributes['id']}-data"))


def test_nothing_is_loaded_from_anywhere(page: Element) -> None:
    for element in page.all():
        assert not {"src", "srcset", "data", "poster", "action"} & set(element.attributes), element.tag
        href = element.attributes.get("href")
        assert href is None or href.startswith("#")
    style = str(next(page.all("style")).children[0])
    assert "url(" not in style and "@import" not in style
    assert any(
        str(meta.attributes.get("content")).startswith("default-src 'none';") for meta in page.all("meta")
    )
    own = str(list(page.all("script"))[-1].children[0])
    assert "showSendToCloud: false" in own and not re.search(r"https?:|fetch|XMLHttpRequest", own)


def test_links_lead_somewhere_on_the_page(page: Element) -> None:
    ids = [element.attributes["id"] for element in page.all() if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    for link in page.all("a"):
        assert str(link.attributes["href"]).removeprefix("#") in ids
    for element in page.all():
        assert element.attributes.get("aria-labelledby") in (None, *ids)


def test_tables_can_be_read_aloud(page: Element) -> None:
    tables = list(page.all("table"))
    assert len(tables) == 5 * 2 + 2 * 2 + 2 + 1
    for table in tables:
        assert next(table.all("caption")).text.strip()
        assert all(heading.attributes.get("scope") in ("col", "row") for heading in table.all("th"))
        widths = {len(list(row.all("th"))) + len(list(row.all("td"))) for row in table.all("tr")}
        assert len(widths) == 1, table.text


def test_hostile_names_stay_text() -> None:
    tame = make_result(repetitions=2)
    wild = make_result(HOSTILE, emulated=HOSTILE, local=f"{HOSTILE}2", layer=HOSTILE, repetitions=2)
    target = wild.targets[HOSTILE]
    renamed = {
        "measurements": {HOSTILE: target.measurements["baseline"], "dense": target.measurements["dense"]},
        "summaries": {HOSTILE: target.summaries["baseline"]},
        "gates": {HOSTILE: target.gates["dense"]},
        "headline": HOSTILE,
        "error": HOSTILE,
        "environment": {HOSTILE: {HOSTILE: [HOSTILE]}},
        "validity": Validity(state="suspect", reasons=(HOSTILE,)),
    }
    wild = wild.model_copy(
        update={"targets": {**wild.targets, HOSTILE: target.model_copy(update=renamed)}, "error": HOSTILE}
    )
    text = html.render(wild)
    parsed = Page(text)
    assert "alert(1)</script>" not in text and "<img" not in text
    assert len(list(parsed.root.all("script"))) == len(list(Page(html.render(tame)).root.all("script")))
    assert (
        not parsed.comments and HOSTILE in parsed.root.text and "49" not in next(parsed.root.all("h1")).text
    )
    for element in parsed.root.all():
        assert not any(name.startswith("on") for name in element.attributes)
    names = [trace["name"] for figure in figures(parsed.root) for trace in json.loads(figure)["data"]]
    assert not any("<" in name for name in names)


@settings(max_examples=25, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_any_name_whatever_is_shown_as_it_is(name: str) -> None:
    result = make_bare_result(name, error=name).model_copy(update={"model": make_model(name)})
    parsed = Page(html.render(with_targets(result, **{name: make_failed_target(name)})))
    assert not list(parsed.root.all("script")) and not parsed.comments
    assert next(parsed.root.all("h1")).text == name
    assert name in section(parsed.root, "The model").text and name in next(parsed.root.all("a")).text


def test_a_failed_target_looks_failed_and_says_why(result: Result) -> None:
    page = Page(html.render(with_targets(result, board=make_failed_target()))).root
    failed, well = section(page, "board"), section(page, "local")
    assert "failed" in str(failed.attributes["class"]) and "failed" not in str(well.attributes["class"])
    alert = next(failed.all(role="alert"))
    assert "nothing answers at 10.0.0.9 port 22" in alert.text and "is it switched on?" in alert.text
    assert [chip.text for chip in failed.all(class_="chip")] == ["no evidence"]
    assert [chip.text for chip in next(page.all("header")).all(class_="chip")] == [
        "no evidence",
        "passed",
        "passed",
        "no evidence",
    ]


def test_a_run_that_failed_before_any_target_says_so() -> None:
    text = html.render(make_bare_result(error="convert: the sparse file differs from its dense twin"))
    page = Page(text).root
    assert "the sparse file differs" in next(page.all(role="alert")).text
    assert "No target was measured." in page.text and len(text) < 50_000


def test_an_invalid_measurement_and_a_disagreement_are_said(result: Result) -> None:
    reason = "sparse: 5 repetitions, expected 6"
    update = {
        "validity": Validity(state="invalid", reasons=(reason,)),
        "agreement": AGREEMENT.model_copy(update={"agrees": False, "greatest_difference": None}),
        "summaries": {},
        "gates": {},
        "verdicts": (),
        "winner": None,
        "installed": None,
        "exit_code": 3,
    }
    target = result.targets["local"].model_copy(update=update)
    part = section(Page(html.render(with_targets(result, local=target))).root, "local")
    assert reason in part.text and "measurement invalid" in part.text
    assert "DISAGREE: an output is not a finite number" in part.text
    assert len(figures(part)) == 2


def test_a_session_that_was_taken_again_is_said(result: Result) -> None:
    target = result.targets["local"]
    before = InvalidSession(
        validity=Validity(state="invalid", reasons=("the board was throttled",)),
        environment=target.environment,
        measurements=target.measurements,
    )
    changed = with_targets(result, local=target.model_copy(update={"invalid_sessions": (before,)}))
    said = "Session 1 was invalid and was taken again"
    assert said in section(Page(html.render(changed)).root, "local").text
    console = Console(width=200)
    with console.capture() as capture:
        console.print(terminal.summary(changed))
    assert "kept and not compared: the board was throttled" in capture.get()


def test_a_failed_gate_and_an_advisory_one_can_be_told_apart() -> None:
    limits = GatesSection(max_latency_ms=LatencyGate(p50=0.001), max_file_bytes=1000)
    page = Page(html.render(make_result(limits=limits, repetitions=2))).root
    gates = next(each for each in section(page, "rpi4").all("table") if "max_file_bytes" in each.text)
    outcomes = {
        next(row.all("code")).text: list(row.all("td"))[-1].text.split() for row in list(gates.all("tr"))[1:]
    }
    assert outcomes["max_latency_ms.p50"] == ["failed", "advisory:", "emulated"]
    assert outcomes["max_file_bytes"] == ["failed"] and outcomes["max_metric_drop"] == ["passed"]
    assert "Winner" not in section(page, "rpi4").text


def test_plotly_is_made_fit_for_a_script_element(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / html.PLOTLY
    script.parent.mkdir()
    script.write_text("var a = '</script><!--';", encoding="utf-8")
    found = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: found)
    assert r"var a = '<\/script><\!--';" in html.render(make_result(repetitions=2))


def test_importing_the_reports_is_cheap() -> None:
    heavy = {"plotly", "jinja2", "tensorflow", "keras", "scipy", "sklearn"}
    code = f"import sys, pipeline.reports.html, pipeline.reports.terminal; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@given(st.floats(1e-4, 1e6))
def test_times_keep_three_digits_and_never_an_exponent(value: float) -> None:
    text = notation.milliseconds(value)
    assert re.fullmatch(r"[\d,]+\.\d+", text)
    assert float(text.replace(",", "")) == pytest.approx(value, rel=0.005, abs=5e-5)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1,023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (3 * 1024**2, "3.00 MiB")],
)
def test_sizes_in_binary_units(count: int, text: str) -> None:
    assert notation.size(count) == text

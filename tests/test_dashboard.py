"""The night's page, as a person sees it in a browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import app
from pipeline.commands_dashboard import publish
from pipeline.errors import UserError
from pipeline.farm import night as nights
from pipeline.farm.dashboard import Dashboard, gather
from pipeline.farm.night import Night
from pipeline.history.database import reading
from pipeline.reports import dashboard as page
from tests.browser import Browser, browser
from tests.nights_for_tests import COUNT, FARM, SWITCHED_OFF, farm
from tests.page import Page, figures

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> {{ 7 * 7 }}"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dashboard, Path]:
    """The last night of a small farm: its page's figures, and the page."""
    root = tmp_path_factory.mktemp("farm")
    url = f"sqlite:///{root / 'history.db'}"
    folder = farm(url, root / "runs")
    return publish(nights.load(folder), folder, url)


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as found:
        yield found


def text_of(window: Browser, selector: str) -> list[str]:
    """What is seen of the elements, without what is folded away."""
    script = "return [...document.querySelectorAll(arguments[0])].map((each) => each.innerText)"
    return [" ".join(each.split()) for each in window.run(script, selector)]


def test_a_person_sees_what_changed_what_is_missing_and_why(
    window: Browser, shown: tuple[Dashboard, Path], tmp_path: Path
) -> None:
    window.open(shown[1])
    assert "red" in text_of(window, "h1 + .chip")
    missing, noisy, regressed, creeping = text_of(window, ".alarms li")
    assert missing.startswith("missing digits on pixel: latency, memory, file size, accuracy")
    assert SWITCHED_OFF in missing
    assert noisy.startswith("unstable digits on zero2w: latency") and "too noisy" in noisy
    assert regressed.startswith("regressed digits on rpi4: latency in the night +6.")
    assert creeping.startswith("regressed keywords on rpi4: latency over nights +1.")
    assert "it shows a slowdown of" in creeping and "A/A nights" in creeping
    assert dict(zip(text_of(window, ".tiles dt"), text_of(window, ".tiles dd"), strict=True)) == {
        "devices up": "3 of 5",
        "jobs measured": "6 of 7",
        "series regressed": "2",
        "series not judged": "5",
    }
    window.screenshot(tmp_path / "dashboard.png")
    assert (tmp_path / "dashboard.png").stat().st_size > 50_000


def test_every_device_is_there_with_its_health(window: Browser, shown: tuple[Dashboard, Path]) -> None:
    window.open(shown[1])
    rows = {row.split()[0]: row for row in text_of(window, "[aria-labelledby=fleet] tbody tr")}
    assert list(rows) == ["pixel", "rpi4", "rpi5", "virtual-rpi4", "zero2w"]
    assert "missing " + SWITCHED_OFF in rows["pixel"] and "2025-01-25 02:00" in rows["pixel"]
    assert " up 2025-01-26 02:00" in rows["rpi4"] and "°C ai-edge-litert" in rows["rpi4"]
    assert "too noisy" in rows["zero2w"] and "EMULATED" in rows["virtual-rpi4"]
    assert all(f"of {COUNT} nights (below" in rows[name] for name in ("rpi4", "zero2w", "virtual-rpi4"))


def test_charts_show_every_night_with_intervals_and_steps(
    window: Browser, shown: tuple[Dashboard, Path]
) -> None:
    window.open(shown[1])
    window.draw()
    panes = "['xy', 'xy2', 'xy3'].map((pane) => each.querySelectorAll(`.subplot.${pane} .point`).length)"
    bars = "each.querySelectorAll('.errorbar').length"
    script = f"const each = document.getElementById(arguments[0]); return [...{panes}, {bars}]"
    for number, trend in enumerate(shown[0].trends, 1):
        drawn = window.run(script, f"figure-{number}")
        count = len(trend.points)
        steps = [step.of for step in trend.steps]
        assert drawn == [
            count,
            count + steps.count("candidate"),
            3 * count + steps.count("device"),
            count,
        ], (trend.plan, trend.target)
    trends = {(each.plan, each.target): each for each in shown[0].trends}
    assert [step.of for step in trends["keywords", "rpi4"].steps] == ["candidate"]
    assert [step.of for step in trends["digits", "rpi5"].steps] == ["device"]
    (words,) = (each for each in text_of(window, "article") if each.startswith("keywords on rpi5"))
    assert "a new segment begins: kernel: 6.6.31 became 6.12.9" in words
    jobs = window.run("return document.querySelectorAll('#scatter-1 .point').length")
    assert jobs == 2 * sum(job.ended == "done" for job in shown[0].night.jobs)


def test_the_tables_have_the_charts_numbers(window: Browser, shown: tuple[Dashboard, Path]) -> None:
    window.open(shown[1])
    window.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    for number, trend in enumerate(shown[0].trends, 1):
        rows = text_of(window, f"article:nth-of-type({number}) tbody tr")
        assert len(rows) == len(trend.points)
        for row, point in zip(rows, reversed(trend.points), strict=True):
            assert point.change is not None and point.change.low is not None
            assert point.started[:10] in row and f"{100 * (point.change.low - 1):+.2f} %" in row
            assert f"{point.over_canary:.4f}" in row


def test_nothing_goes_wrong_and_nothing_is_asked_of_a_network(
    window: Browser, shown: tuple[Dashboard, Path]
) -> None:
    assert window.complaints is not None and window.requests is not None
    window.open(shown[1])
    window.open(shown[1], dark=True)
    assert window.complaints == []
    asked = window.requests
    assert asked.count(shown[1].as_uri()) == 2
    assert [each for each in asked if not each.startswith(("file:", "data:", "blob:"))] == []


def test_every_link_leads_somewhere(window: Browser, shown: tuple[Dashboard, Path]) -> None:
    window.open(shown[1])
    links = window.run("return [...document.querySelectorAll('a')].map((each) => each.getAttribute('href'))")
    runs = {each for each in links if not each.startswith("#")}
    # Of what is an alarm there is a page, of the others the result.
    alarmed = {"digits-rpi4/report.html", "digits-zero2w/report.html", "keywords-rpi4/report.html"}
    passed = {"digits-rpi5/result.json", "digits-virtual-rpi4/result.json", "keywords-rpi5/result.json"}
    anew = {f"{job}/rerun-{at}/result.json" for job in ("digits-rpi4", "keywords-rpi4") for at in (1, 2, 3)}
    assert runs == alarmed | passed | anew
    assert all((shown[1].parent / each).is_file() for each in runs)
    assert "candidate" in Page((shown[1].parent / "digits-rpi4/report.html").read_text()).root.text
    anchors = [each[1:] for each in links if each.startswith("#")]
    assert window.run("return arguments[0].every((each) => document.getElementById(each))", anchors)


@pytest.mark.parametrize("width", [320, 390, 800, 1200])
def test_no_page_is_wider_than_its_window(width: int, window: Browser, shown: tuple[Dashboard, Path]) -> None:
    window.open(shown[1], width=width)
    window.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert window.run("return document.documentElement.scrollWidth") <= width
    tables = (
        "return [...document.querySelectorAll('.scroll')].map((each) => each.scrollWidth - each.clientWidth)"
    )
    assert max(window.run(tables)) <= 1


def test_the_keyboard_reaches_the_links_and_opens_the_tables(
    window: Browser, shown: tuple[Dashboard, Path]
) -> None:
    from selenium.webdriver.common.keys import Keys

    window.open(shown[1])
    window.driver.switch_to.active_element.send_keys(Keys.TAB)
    assert window.run("return document.activeElement.className") == "skip"
    window.run("document.querySelector('summary').focus()")
    window.driver.switch_to.active_element.send_keys(Keys.ENTER)
    assert len(text_of(window, "details[open] tbody tr")) == len(shown[0].night.verdicts)
    assert window.run(
        "return [...document.querySelectorAll('.figure')].every((each) => each.getAttribute('aria-label'))"
    )


def test_a_reader_in_the_dark_gets_a_dark_page(window: Browser, shown: tuple[Dashboard, Path]) -> None:
    brightness = (
        "const part = (each) => getComputedStyle(each).color.match(/[0-9.]+/g).slice(0, 3).reduce((a, b) => a + +b, 0);"
        "return part(document.body)"
    )
    window.open(shown[1])
    text = window.run(brightness)
    window.open(shown[1], dark=True)
    assert text < 3 * 100 < 3 * 180 < window.run(brightness)


def changed(found: Dashboard, **night: Any) -> Dashboard:
    return found.model_copy(update={"night": found.night.model_copy(update=night)})


def test_a_green_night_says_so(shown: tuple[Dashboard, Path]) -> None:
    passed = tuple(each for each in shown[0].night.verdicts if not each.alarm)
    text = Page(page.render(changed(shown[0], verdicts=passed, exit_code=0))).root.text
    assert "Nothing: every job was measured" in text and "green" in text


def test_the_first_night_has_a_page(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'history.db'}"
    folder = farm(url, tmp_path / "runs", FARM[:1], count=1)
    with reading(url) as connection:
        found = gather(connection, nights.load(folder), folder)
    text = Page(page.render(found)).root.text
    assert "1 night" in text and len(found.trends[0].points) == 1


def test_names_and_reasons_are_text_and_never_markup(shown: tuple[Dashboard, Path]) -> None:
    verdicts = tuple(each.model_copy(update={"reason": HOSTILE}) for each in shown[0].night.verdicts)
    jobs = tuple(
        each.model_copy(update={"description": HOSTILE, "runtime": HOSTILE, "metric": HOSTILE})
        for each in shown[0].night.jobs
    )
    fleet = tuple(each.model_copy(update={"reason": HOSTILE, "runtime": HOSTILE}) for each in shown[0].fleet)
    hostile = changed(shown[0], verdicts=verdicts, jobs=jobs, nightly=HOSTILE)
    found = page.render(hostile.model_copy(update={"fleet": fleet}))
    root = Page(found).root
    assert HOSTILE in root.text and not list(root.all("img"))
    assert len(list(root.all("script"))) == len(figures(root)) + 2


def test_a_page_without_any_measurement_has_no_charts(shown: tuple[Dashboard, Path]) -> None:
    night: Night = shown[0].night
    jobs = tuple(each for each in night.jobs if each.ended == "missing")
    bare = changed(shown[0], jobs=jobs, verdicts=()).model_copy(update={"trends": (), "fleet": ()})
    text = page.render(bare)
    assert len(text) < 100_000 and "Nothing was measured tonight." in Page(text).root.text


def test_the_command_writes_the_page_of_a_night(
    shown: tuple[Dashboard, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shown[1].parent
    latest = tmp_path / "latest-night"
    latest.symlink_to(folder)
    history = f"sqlite:///{folder.parent.parent / 'history.db'}"
    app(["dashboard", str(latest), "--history", history, "--json"], standalone_mode=False)
    said = json.loads(capsys.readouterr().out)
    assert Dashboard.model_validate(said) == shown[0]
    app(["dashboard", str(folder / "night.json"), "--history", history], standalone_mode=False)
    assert "".join(capsys.readouterr().out.split()) == f"dashboard:{folder / 'dashboard.html'}"
    with pytest.raises(UserError, match="latest-night"):
        app(["dashboard", str(tmp_path / "none")], standalone_mode=False)


def test_nights_of_other_folders_are_linked_and_what_is_no_night_is_left_out(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'history.db'}"
    first = farm(url, tmp_path / "runs", FARM[:1], count=1)
    first.rename(first.parent / "before")
    later = farm(url, tmp_path / "runs", FARM[:1], count=2)
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "night.json").write_text("{")
    found, _ = publish(nights.load(later), later, url)
    assert found.pages == {
        "night-00-digits-rpi4-0": "../before/digits-rpi4/result.json",
        "night-01-digits-rpi4-0": "digits-rpi4/result.json",
    }


def test_a_device_that_was_measured_and_is_not_judged_is_up(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'history.db'}"
    folder = farm(url, tmp_path / "runs", FARM[:1], count=1)
    night = nights.load(folder)
    verdicts = tuple(
        each.model_copy(update={"outcome": "missing", "reason": "no baseline"}) for each in night.verdicts
    )
    found, _ = publish(night.model_copy(update={"verdicts": verdicts, "exit_code": 1}), folder, url)
    assert [device.state for device in found.fleet] == ["up"]

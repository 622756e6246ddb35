"""The terminal's tables, and the comparison of two runs."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console, RenderableType

from pipeline.comparison import Comparison, TargetComparison, compare
from pipeline.measurement.validity import Validity
from pipeline.plan import GatesSection, LatencyGate
from pipeline.reports import notation, terminal
from pipeline.result import Result, TargetResult
from tests.results_for_tests import make_bare_result, make_failed_target, make_result, with_targets

BEFORE = make_result(repetitions=2, samples=3)


@pytest.fixture(scope="module")
def result() -> Result:
    return make_result()


def shown(renderable: RenderableType, **how: Any) -> str:
    """What a terminal of 80 columns without colour shows."""
    console = Console(file=io.StringIO(), width=80, **({"no_color": True} | how))
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_summary_fits_80_columns_without_colour(result: Result) -> None:
    text = shown(terminal.summary(with_targets(result, board=make_failed_target())))
    assert "\x1b" not in text and max(map(len, text.splitlines())) <= 80
    emulated, rest = text.split("local: passed")
    local, failed = rest.split("board: no evidence")
    assert "rpi4: passed" in emulated and "EMULATED" in emulated and emulated.count("emulated") == 3
    assert "emulated" not in local.lower() and "error: nothing answers" in failed
    for name, part in (("rpi4", emulated), ("local", local)):
        target = result.targets[name]
        assert re.findall(r"^\* (\w+)", part, re.MULTILINE) == ["sparse", "winner"]
        assert " ".join(target.headline.split()) in " ".join(part.split())
        for summary in target.summaries.values():
            assert (
                notation.milliseconds(summary.p50_ms.value) in part
                and notation.interval(summary.p50_ms) in part
            )
            assert notation.milliseconds(summary.p90_ms.value) in part
            assert notation.size(summary.peak_memory_bytes) in part and notation.score(summary.metric) in part
        assert "exact rewrites: stem (1); 1,024 weights then run sparse, 0 without it" in " ".join(
            part.split()
        )
        assert "403.2 KiB" in part and "118.5 KiB" in part and part.count("passed") == 2 + (name == "rpi4")


def test_the_summary_names_the_gates_that_failed() -> None:
    limits = GatesSection(max_latency_ms=LatencyGate(p50=0.001), max_file_bytes=200_000)
    text = " ".join(shown(terminal.summary(make_result(limits=limits, repetitions=2))).split())
    assert "dense: max_file_bytes: 412,856 bytes, limit 200,000 bytes: failed by 212,856 bytes" in text
    assert "(advisory: taken on an emulated device)" in text
    assert re.search(r"dense 403.2 KiB [\d.]+ [\d.]+ 1.24 MiB 0.9711 FAILED", text)
    assert re.search(r"sparse 118.5 KiB [\d.]+ [\d.]+ 419.4 KiB 0.9711 advisory", text)


def test_the_terminal_is_not_driven_by_names() -> None:
    name = "[bold]x[/bold]\x1b[31m\x9b2J\x07"
    result = make_result(name, emulated=name, layer=name, repetitions=2)
    assert result.model is not None
    for renderable in (
        terminal.summary(make_bare_result(error=name)),
        terminal.summary(result),
        terminal.decisions_table(result.model.layers),
        terminal.comparison_table(compare(result, result)),
    ):
        text = shown(renderable, force_terminal=True, color_system=None)
        assert not set("\x1b\x9b\x07") & set(re.sub("\x1b\\[[0-9;]*m", "", text).replace("\n", ""))
        assert "\x1b[31m" not in text


def test_the_decisions_fit_80_columns(result: Result) -> None:
    assert result.model is not None
    text = shown(terminal.decisions_table(result.model.layers))
    assert max(map(len, text.splitlines())) <= 80
    assert "50,176 -> 10,035" in text and "32 -> 16 units" in text and "units removed" in text
    words = set(text.split())
    for layer in result.model.layers:
        assert set(layer.reason.split()) <= words and layer.layer in words and layer.kind in words


def only(comparison: Comparison, name: str) -> TargetComparison:
    return next(target for target in comparison.targets if target.target == name)


def test_a_comparison_gives_ratios_and_says_whether_intervals_overlap() -> None:
    before, after = make_result(), make_result(slowness=1.5).model_copy(update={"id": "after"})
    found = only(compare(before, after), "local")
    assert found.comparable and not found.notes
    assert [each.variant for each in found.variants] == ["baseline", "dense", "sparse"]
    for each in found.variants:
        old, new = (run.targets["local"].summaries[each.variant] for run in (before, after))
        assert (each.p50_ms.before, each.p50_ms.after, each.p90_ms.after) == (
            old.p50_ms,
            new.p50_ms,
            new.p90_ms,
        )
        assert each.p50_ms.ratio == pytest.approx(1.5, rel=1e-4) and each.p50_ms.overlap is False
        assert each.file_bytes.before == each.file_bytes.after and each.metric.before == old.metric
        assert each.peak_memory_bytes.after == new.peak_memory_bytes
    same = compare(before, before)
    assert same.notes[0] == "both are the same run" and any("not interleaved" in note for note in same.notes)
    assert all(each.p50_ms.overlap and each.p50_ms.ratio == 1 for each in only(same, "local").variants)
    assert Comparison.model_validate_json(same.model_dump_json()) == same


def test_a_comparison_of_an_emulated_device_says_so() -> None:
    found = only(compare(make_result(), make_result(slowness=1.1)), "rpi4")
    assert found.emulated and any(note.startswith("emulated:") for note in found.notes)
    text = shown(terminal.comparison_table(compare(make_result(), make_result(slowness=1.1))))
    assert max(map(len, text.splitlines())) <= 80
    emulated, local = text.split("\nlocal")
    assert emulated.count(" emulated ") == 9 and "emulated" not in local
    assert "1.100x" in local and "intervals do not overlap" in local and "note: the two runs" in local


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"runtime": "another"}, "runtime was ai-edge-litert, is another"),
        ({"kernel": "6.9.9"}, "kernel was 6.8.0, is 6.9.9"),
        ({"cpu": {"model": "Another CPU"}}, "cpu model was Some CPU, is Another CPU"),
        ({"emulated": True}, "emulated was False, is True"),
        ({"threads": 4}, "threads was 1, is 4"),
        ({"versions": {"runtime_version": "9"}}, "runtime_version on the device was 2.14.0, is 9"),
    ],
)
def test_times_of_different_devices_are_not_compared(change: dict[str, Any], words: str) -> None:
    after = with_targets(BEFORE, local=changed_target(BEFORE.targets["local"], change))
    found = only(compare(BEFORE, after), "local")
    assert not found.comparable
    assert any(note.startswith("not comparable: ") and words in note for note in found.notes), found.notes
    for each in found.variants:
        assert each.p50_ms.ratio is None and each.p50_ms.overlap is None and each.p50_ms.after is not None
    assert "not comparable" in shown(terminal.comparison_table(compare(BEFORE, after)))


def changed_target(target: TargetResult, change: dict[str, Any]) -> TargetResult:
    """The target with one thing about its device, its runtime or its processes changed."""
    if set(change) <= set(TargetResult.model_fields):
        return target.model_copy(update=change)
    if set(change) <= {"threads", "versions"}:
        measurements = {
            name: each.model_copy(
                update={"repetitions": tuple(one.model_copy(update=change) for one in each.repetitions)}
            )
            for name, each in target.measurements.items()
        }
        return target.model_copy(update={"measurements": measurements})
    return target.model_copy(update={"environment": {"before": {**target.environment["before"], **change}}})


def test_what_exists_on_one_side_only_is_said() -> None:
    local = BEFORE.targets["local"]
    fewer = local.model_copy(update={"summaries": {"dense": local.summaries["dense"]}})
    after = BEFORE.model_copy(
        update={"targets": {"local": fewer, "board": make_failed_target()}, "id": "after"}
    )
    found = compare(BEFORE, after)
    assert [each.only for each in only(found, "local").variants] == ["before", None, "before"]
    gone, new = only(found, "rpi4"), only(found, "board")
    assert "after: this target was not in the run" in gone.notes and not gone.comparable
    assert all(each.only == "before" and each.p50_ms.ratio is None for each in gone.variants)
    assert new.notes[0] == "before: this target was not in the run" and not new.variants
    assert new.notes[1].startswith("after: no figures: no evidence from the device")
    assert "only before" in shown(terminal.comparison_table(found))


def test_other_protocols_metrics_and_doubts_are_said() -> None:
    assert BEFORE.model is not None
    suspect = BEFORE.targets["local"].model_copy(
        update={"validity": Validity(state="suspect", reasons=("the device was busy",))}
    )
    after = with_targets(BEFORE, local=suspect).model_copy(
        update={
            "plan": {"name": "digits", "measure": {"repetitions": 99}},
            "model": BEFORE.model.model_copy(update={"metric": "auc"}),
        }
    )
    found = compare(BEFORE, after)
    assert "after: the measurement is suspect: the device was busy" in only(found, "local").notes
    assert any("accuracy and auc" in note for note in found.notes)
    assert any("measuring protocols differ" in note for note in found.notes)

"""Cold starts: what the page cache holds of a file, a session that empties it, and what is told of that."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_agents import page_cache
from pipeline.measurement import cold
from pipeline.measurement.measurement import ColdStart
from pipeline.measurement.statistics import summarise
from pipeline.reports import html
from pipeline.result import Result
from tests.agent_process import Agent, time_step
from tests.page import Page, rows, section
from tests.results_for_tests import make_measurement, make_result, with_targets
from tests.workspace import Workspace

PAGES = 25
SIZE = PAGES * mmap.PAGESIZE - 1
MEMORY = Path("/dev/shm")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file on a disk, all of it in the page cache."""
    if _kind(tmp_path) in ("tmpfs", "ramfs"):
        pytest.skip("the folder of tests is no disk here")
    path = tmp_path / "model"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder in memory."""
    if not MEMORY.is_dir() or _kind(MEMORY) != "tmpfs":
        pytest.skip("this machine has no file system in memory at /dev/shm")
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        yield Path(name)


def _kind(folder: Path) -> str:
    return subprocess.run(
        ["stat", "-f", "-c", "%T", folder], check=True, capture_output=True, text=True
    ).stdout.strip()


def _resident(path: Path) -> int | None:
    with path.open("rb") as stream:
        return page_cache.resident(stream.fileno())


def test_a_file_just_written_is_dropped_and_comes_back_when_read(file: Path) -> None:
    content = file.read_bytes()
    assert _resident(file) == PAGES * mmap.PAGESIZE
    assert page_cache.evict(str(file)) == (0, None)
    assert _resident(file) == 0
    assert file.read_bytes() == content
    assert _resident(file) == PAGES * mmap.PAGESIZE


def test_an_empty_file_holds_nothing(file: Path) -> None:
    file.write_bytes(b"")
    assert page_cache.evict(str(file)) == (0, None)


def test_a_file_that_another_program_has_mapped_stays(file: Path) -> None:
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as other:
        assert len(other[:]) == SIZE
        left, reason = page_cache.evict(str(file))
    assert left and reason and f"{left} bytes of the file stay in memory" in reason
    assert page_cache.evict(str(file)) == (0, None)


def test_a_file_in_memory_stays(in_memory: Path) -> None:
    path = in_memory / "model"
    path.write_bytes(os.urandom(SIZE))
    left, reason = page_cache.evict(str(path))
    assert left == PAGES * mmap.PAGESIZE and reason and "file system keeps files there" in reason


def test_where_nothing_tells_nothing_is_called_cold(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(ctypes, "CDLL", lambda *_, **__: object())
        assert page_cache.evict(str(file)) == (None, "nothing on this device tells what the page cache holds")
    with monkeypatch.context() as patched:
        patched.delattr(os, "posix_fadvise")
        left, reason = page_cache.evict(str(file))
        assert left is None and reason and "this Python cannot" in reason

    def refuse(*_: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "posix_fadvise", refuse)
    left, reason = page_cache.evict(str(file))
    assert left is None and reason and reason.endswith("failed: Operation not permitted")


def test_an_agent_starts_cold_in_fresh_processes(file: Path, tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    log = tmp_path / "log"
    source = f"open({str(log)!r}, 'a').write(f'{{os.getpid()}}\\n')"
    cold_step = {"kind": "cold", "variant": "a"}
    job = agent.measurement(time_step("a"), cold_step, cold_step, models={"a": source})
    _, repetition, *starts, after, done = agent.answer(**job)
    assert (repetition["event"], after["when"], done["event"]) == ("repetition", "after", "done")
    for number, event in enumerate(starts, start=1):
        assert (event["event"], event["step"], event["variant"]) == ("cold", number, "a")
        assert (event["resident"], event["reason"]) == (0, None)
        assert event["load_ns"] > 0 and event["first_ns"] > 0
    # Six inferences of the timed process, then one of each cold start.
    runs = log.read_text().split()
    assert len(starts) == 2 and len(runs) == 8 and len(set(runs)) == 3


def test_an_agent_does_not_time_what_stays_in_memory(in_memory: Path, tmp_path: Path) -> None:
    agent, model = Agent(tmp_path), in_memory / "a.tflite"
    model.write_text("raise RuntimeError('nobody is to run this')")
    step = {"kind": "cold", "variant": "a"}
    event = agent.answer(**agent.measurement(step, models={}, variants={"a": str(model)}))[1]
    assert (event["load_ns"], event["first_ns"]) == (None, None)
    assert event["resident"] == mmap.PAGESIZE and "stay in memory" in event["reason"]


def test_a_system_call_that_is_not_allowed_costs_only_the_cold_start(file: Path, tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    step = {"kind": "cold", "variant": "a"}
    models = {"a": "os.kill(os.getpid(), signal.SIGSYS)"}
    _, event, _, done = agent.answer(**agent.measurement(step, models=models))
    assert (event["load_ns"], event["resident"], done["event"]) == (None, None, "done")
    assert "SIGSYS" in event["reason"]


def start(load_ms: float | None, first_ms: float | None = 2.0) -> ColdStart:
    """A cold start, or none, for its file stayed in memory."""
    if load_ms is None or first_ms is None:
        return ColdStart(step=9, load_ns=None, first_ns=None, resident=4096, reason="4096 bytes stay")
    return ColdStart(
        step=9, load_ns=int(load_ms * 1e6), first_ns=int(first_ms * 1e6), resident=0, reason=None
    )


def test_figures_are_of_those_starts_that_were_cold() -> None:
    found = cold.summarise([start(5), start(None), start(8, 3), start(7, 4)])
    assert (found.starts, found.load_ms, found.first_ms, found.reason) == (3, 7.0, 3.0, None)
    assert found.beside(1.25, 1) == "cold start: loading 7 ms (warm 1.25), first inference 3 ms (warm 1)"
    none = cold.summarise([start(None)])
    assert (none.starts, none.load_ms, none.first_ms) == (0, None, None)
    assert none.beside(1, 1) == "cold start: not known, for 4096 bytes stay"


def test_a_measurement_without_cold_starts_says_nothing_of_them() -> None:
    summary = summarise(make_measurement("dense", False, 6, 20))
    assert summary.cold is None and not summary.sentences


def result_with(*starts: ColdStart) -> Result:
    result = make_result()
    target = result.targets["local"]
    summaries = {
        name: summarise(each.model_copy(update={"cold": starts}))
        for name, each in target.measurements.items()
    }
    return with_targets(result, local=target.model_copy(update={"summaries": summaries}))


@pytest.mark.parametrize(
    ("given", "load", "first"), [(start(75), "75.00", "2.000"), (start(None), "unknown", "unknown")]
)
def test_cold_figures_are_on_the_page(given: ColdStart, load: str, first: str) -> None:
    page = Page(html.render(result_with(given))).root
    table = rows(next(section(page, "local").all("table", class_="variants")))
    title = "loading, file not in the page cache"
    assert [cell.text.strip() for cell in table[title]] == [load] * 3
    assert [cell.text.strip() for cell in table["first inference after that"]] == [first] * 3


def test_a_deploy_starts_every_variant_cold(tmp_path: Path, home: Path) -> None:
    workspace = Workspace(tmp_path, home)
    setting = ("--set", "measure.cold_starts=2")
    ended = workspace.run("deploy", "plan.yaml", "--target", "local", *setting)
    assert ended.code == 0, ended.err
    assert "cold start: " in ended.out
    local = workspace.result()["targets"]["local"]
    for name, each in local["measurements"].items():
        assert len(each["cold"]) == 2
        figures = local["summaries"][name]["cold"]
        # Whether files are dropped here depends on where the device's folder lies.
        for found in each["cold"]:
            assert (found["load_ns"] is None) == (found["reason"] is not None) == (found["resident"] != 0)
        assert figures["starts"] == sum(found["resident"] == 0 for found in each["cold"])

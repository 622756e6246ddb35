"""`edgepipe nightly` as a user runs it: real models, a real agent on this machine, a target that is down."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest

from pipeline.farm import night
from tests.loopback_sshd import free_port
from tests.workspace import ROOT, Workspace

# Called emulated, as this machine's other work makes sessions invalid.
BOARD = """
transport: local
local: {}
workdir: ${EDGEPIPE_HOME}/board
install_path: installed/board
tags: [bench]
emulated: true
"""
# Every threshold is far beyond what a busy machine does to so short sessions.
NIGHTLY = """
name: small
plans:
  - plan: plan.yaml      # comments stay
    set: [train.epochs=2]
tags: [bench]
repetitions: 3
emulated: judge
thresholds: {latency: 1.0, memory: 10.0, size: 0.0, metric: 1.0, detectable: 1.0e+6}
policy: {patience: 1, quarantines: 0}
"""


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Workspace:
    """A folder whose first night has been."""
    farm = Workspace(tmp_path_factory.mktemp("farm"), home)
    (farm.folder / "targets").mkdir()
    (farm.folder / "targets" / "board.yaml").write_text(BOARD)
    (farm.folder / "nightly.yaml").write_text(NIGHTLY)
    # Too small a model would take no time at all.
    (farm.folder / "sizes.py").write_text("WIDTH = 128\n")
    ended = farm.run("nightly", "--json")
    assert ended.code == 1, ended.err
    job, reasons = ended.json["jobs"][0], {verdict["reason"] for verdict in ended.json["verdicts"]}
    assert job["ended"] == "done" and job["variants"]["candidate"]["p50_ms"]["value"] > 0
    assert [reason.partition(":")[0] for reason in reasons] == ["measured, and held against nothing"]
    return farm


def write_unreachable(farm: Workspace, *names: str) -> None:
    """Targets with the tag at whose address nobody answers."""
    (farm.folder / "targets").mkdir(exist_ok=True)
    for name in names:
        (farm.folder / "targets" / f"{name}.yaml").write_text(
            f"transport: ssh\nssh: {{host: 127.0.0.1, port: {free_port()}, user: nobody}}\n"
            "workdir: w\ninstall_path: i\ntags: [bench]\n"
        )


def verdicts(document: Any) -> dict[str, str]:
    return {
        f"{each['plan']}/{each['target']}/{each['metric']}": each["outcome"] for each in document["verdicts"]
    }


def history(farm: Workspace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = farm.run("history", "list", "--last", "10000", "--json").json
    return rows


def failures(farm: Workspace) -> set[str]:
    """The failing cases of the latest night's junit.xml."""
    root = ElementTree.parse(farm.folder / "runs" / "latest-night" / "junit.xml").getroot()
    cases = root.findall("testsuite/testcase")
    assert sum(int(suite.attrib["tests"]) for suite in root) == len(cases) > 0
    failing = {case.attrib["name"] for case in cases if case.find("failure") is not None}
    assert sum(int(suite.attrib["failures"]) for suite in root) == len(failing)
    return failing


def test_what_was_accepted_is_green_what_became_slower_or_silent_is_red(farm: Workspace) -> None:
    accepted = farm.run("baseline", "accept", "runs/latest-night", "--reason", "the first", "--owner", "ana")
    assert accepted.code == 0, accepted.err
    again = farm.run("baseline", "accept", "runs/latest-night", "--reason", "again", "--json")
    assert (again.code, again.json) == (0, [])
    text = (farm.folder / "nightly.yaml").read_text()
    assert "# comments stay" in text and text.startswith(NIGHTLY)
    (row,) = farm.run("baseline", "list", "--json").json
    assert (row["plan"], row["target"], row["owner"], row["reason"]) == ("small", "board", "ana", "the first")
    assert row["digest"] in text and row["canary"] in text

    green = farm.run("nightly", "--json")
    assert green.code == 0, green.out
    assert verdicts(green.json) == {
        f"small/board/{metric}": "pass" for metric in ("latency", "memory", "size", "metric")
    }
    (job,) = green.json["jobs"]
    assert (job["baseline_owner"], job["tag"], job["emulated"]) == ("ana", "bench", True)
    assert job["variants"]["candidate"]["digest"] == job["variants"]["baseline"]["digest"] == row["digest"]
    assert job["variants"]["canary"]["digest"] == row["canary"]
    # The first night, held against nothing, tells of the device all the same.
    assert green.json["verdicts"][0]["rates"]["nights"] == 2
    folder = farm.folder / "runs" / "latest-night"
    assert json.loads((folder / "night.json").read_text()) == green.json and night.load(folder).exit_code == 0
    schema = json.loads((ROOT / "docs" / "night.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(green.json)
    assert "GREEN: 1 job, 4 verdicts" in (folder / "summary.txt").read_text() and not failures(farm)
    assert (folder / job["folder"] / "result.json").is_file()
    assert f'href="{job["folder"]}/result.json"' in (folder / "dashboard.html").read_text()

    (farm.folder / "sizes.py").write_text("WIDTH = 1024\n")
    write_unreachable(farm, "gone")
    red = farm.run("nightly", "--json")
    assert red.code == 1
    found = verdicts(red.json)
    assert {name: found[f"small/board/{name}"] for name in ("latency", "size", "metric")} == {
        "latency": "regressed",
        "size": "regressed",
        "metric": "pass",
    }
    assert all(outcome == "missing" for name, outcome in found.items() if "/gone/" in name)
    assert failures(farm) == {name for name, outcome in found.items() if outcome != "pass"}
    assert "127.0.0.1" in next(job["reason"] for job in red.json["jobs"] if job["target"] == "gone")
    board = next(job for job in red.json["jobs"] if job["target"] == "board")
    assert len(board["reruns"]) == 3
    # Every session is in the history; what was measured anew is no night of its own.
    rows = history(farm)
    runs = {row["run"] for row in rows if row["variant"] == "candidate"}
    reruns = {row["run"] for row in rows if row["variant"] == "rerun-candidate"}
    assert len(runs) == 3 and len(reruns) == 3
    assert sum(row["run"] in runs | reruns for row in rows) == 4 * 6


def test_a_target_that_is_gone_without_a_word_stays_an_alarm(tmp_path: Path, home: Path) -> None:
    """Nothing answers, so that nothing is made or measured."""
    farm = Workspace(tmp_path, home)
    write_unreachable(farm, "down", "gone")
    (tmp_path / "nightly.yaml").write_text(NIGHTLY.replace("name: small", "name: gone"))
    first = farm.run("nightly")
    assert first.code == 1 and "RED: small on down: all missing; small on gone: all missing" in first.out
    (tmp_path / "targets" / "gone.yaml").unlink()
    for _ in range(2):
        again = farm.run("nightly")
        assert again.code == 1 and "small on gone: all missing" in again.out
        said = " ".join(again.out.split())
        assert "has the tag bench any more" in said and "retired: [small/gone]" in said
        assert "retired: [small/down]" not in said
    (tmp_path / "nightly.yaml").write_text(
        NIGHTLY.replace("name: small", "name: gone") + "retired: [small/gone]\n"
    )
    assert "small on gone" not in farm.run("nightly").out


def test_a_crash_loses_no_finished_measurement(farm: Workspace) -> None:
    plans = "".join(
        f"  - {{plan: plan.yaml, set: [name={name}, train.epochs=2]}}\n" for name in ("first", "second")
    )
    (farm.folder / "crash.yaml").write_text(f"name: crash\nplans:\n{plans}targets: [board]\nrepetitions: 2\n")
    ended = farm.interrupt_at("second on board: measure: 1 of", signal.SIGKILL, "nightly", "crash.yaml")
    assert ended.code == -signal.SIGKILL
    kept = [row for row in history(farm) if row["plan"] == "first"]
    assert sorted(row["variant"] for row in kept) == ["again", "baseline", "canary", "candidate"]
    assert all(row["raw"] and row["p50_ms"] for row in kept)
    (result,) = (farm.folder / "runs").glob("crash-*/jobs/first/board/result.json")
    assert json.loads(result.read_text())["id"] == kept[0]["run"]


def unended(farm: Workspace) -> list[int]:
    """How many jobs wait or run on each device."""
    found = farm.run("farm", "status", "--json").json["devices"]
    return [sum(each["jobs"].get(state, 0) for state in ("queued", "running")) for each in found]


def test_ctrl_c_ends_a_night_with_130_and_leaves_no_job_waiting(farm: Workspace) -> None:
    before = unended(farm)
    plans = "".join(
        f"  - {{plan: plan.yaml, set: [name={name}, train.epochs=2]}}\n" for name in ("stopped", "waiting")
    )
    (farm.folder / "stopped.yaml").write_text(f"plans:\n{plans}targets: [board]\nrepetitions: 50\n")
    ended = farm.interrupt_at("stopped on board: measure: 1 of", signal.SIGINT, "nightly", "stopped.yaml")
    assert ended.code == 130 and "interrupted" in ended.err
    assert "Traceback" not in ended.err
    assert unended(farm) == before


def test_a_deploy_may_be_accepted_too(farm: Workspace) -> None:
    (farm.folder / "other.yaml").write_text(
        "plans: [{plan: plan.yaml, candidate: dense}]\ntargets: [board]\nemulated: judge\n"
    )
    deployed = farm.run("deploy", "plan.yaml", "--set", "train.epochs=2", "--target", "board", "--json").json
    ended = farm.run("baseline", "accept", "runs/latest", "-f", "other.yaml", "--reason", "fits", "--json")
    files = deployed["targets"]["board"]["encoded"]["variants"]
    assert ended.code == 0 and ended.json[0]["digest"] == files["dense"]["digest"], ended.err
    text = (farm.folder / "other.yaml").read_text()
    assert files["dense"]["digest"] in text and files["baseline"]["digest"] in text

"""The examples of a nightly's surroundings: GitHub Actions, systemd, cron; and the report that a CI reads."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from pipeline.farm.judge import NightVerdict
from pipeline.measurement.error_rates import ErrorRates
from pipeline.measurement.statistics import Estimate
from pipeline.reports import junit, night_summary
from tests.requirements_for_tests import skip_or_fail
from tests.test_night_document import NIGHT
from tests.workspace import ROOT

EXAMPLES = ROOT / "examples" / "nightly"


def test_the_workflow_runs_targets_that_there_are_and_keeps_what_was_measured() -> None:
    workflow = yaml.load((EXAMPLES / "github.yml").read_text(), yaml.BaseLoader)
    assert workflow["on"]["schedule"][0]["cron"].split() == ["0", "2", "*", "*", "*"]
    job = workflow["jobs"]["nightly"]
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == ["make nightly"]
    assert subprocess.run(["make", "-n", "nightly"], cwd=ROOT, capture_output=True, check=True).stdout
    uses = {step["uses"].partition("@")[0]: step for step in job["steps"] if "uses" in step}
    for name in ("actions/cache/save", "actions/upload-artifact"):
        assert uses[name]["if"] == "always()"
    # The state folder is the one that is kept.
    assert job["env"]["EDGEPIPE_HOME"].endswith(f"/{uses['actions/cache/save']['with']['path']}")
    assert uses["actions/cache/save"]["with"]["path"] == uses["actions/cache/restore"]["with"]["path"]
    # Nothing is ever saved under a key that is taken, and a job that is run again has the id of before.
    keys = {uses[f"actions/cache/{each}"]["with"]["key"] for each in ("save", "restore")}
    assert len(keys) == 1 and "github.run_attempt" in keys.pop()


def test_the_units_are_what_systemd_takes(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        skip_or_fail("systemd-analyze is missing: apt-get install systemd")
    units = [str(EXAMPLES / f"edgepipe-nightly.{kind}") for kind in ("service", "timer")]
    said = subprocess.run(
        [str(program), "verify", "--user", "--man=no", *units],
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)},
    )
    # What it does not know it ignores, and tells.
    assert (said.returncode, said.stderr) == (0, "")


@pytest.mark.parametrize(
    ("code", "said"), [(0, ""), (1, "red, or the night before still runs: RED: alarm\n")]
)
def test_the_cron_line_says_something_only_where_the_night_is_red(
    tmp_path: Path, code: int, said: str
) -> None:
    (line,) = [line for line in (EXAMPLES / "crontab").read_text().splitlines() if not line.startswith("#")]
    times, command = line.split()[:5], line.split(maxsplit=5)[5]
    assert times == ["0", "2", "*", "*", "*"]
    # To cron, a percent sign is the end of the command.
    assert "%" not in command
    (tmp_path / "edgepipe").mkdir()
    (tmp_path / "edgepipe" / "Makefile").write_text(f"nightly:\n\t@echo 'RED: alarm'; exit {code}\n")
    ended = subprocess.run(
        ["/bin/sh", "-c", command],
        capture_output=True,
        text=True,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "LC_ALL": "C"},
    )
    assert (ended.stdout.partition("\n")[0] + "\n" if ended.stdout else "") == said


def test_junit_names_what_failed_and_why_whatever_is_in_the_reason() -> None:
    rates = ErrorRates(
        nights=20, pairs=10, between=0.003, false_alarm_rate=0.05, false_alarm_bound=0.22, detectable=0.021
    )
    slower = NightVerdict(
        plan="digits",
        target="rpi4",
        metric="latency",
        outcome="regressed",
        reason="+9.8% <beside> & \x1b[31mthe\ufffe \ud800baseline",
        change=Estimate(value=1.098, low=1.09, high=1.11),
        layer="in the night",
        rates=rates,
    )
    night = NIGHT.model_copy(update={"verdicts": (slower, *NIGHT.verdicts)})
    root = ElementTree.fromstring(junit.render(night))
    failing = {
        case.attrib["name"]: failure.attrib
        for case in root.iter("testcase")
        if (failure := case.find("failure")) is not None
    }
    assert set(failing) == {"digits/rpi4/latency", "digits/rpi5/size"}
    latency = failing["digits/rpi4/latency"]
    assert latency["type"] == "regressed" and "<beside> & ?[31mthe? ?baseline" in latency["message"]
    # The device's own error rates stand beside the verdict.
    rated = "5.0 % of 20 A/A nights suspected falsely (surely below 22.0 %), slowdowns of 2.1 % seen"
    assert rated in latency["message"]
    suites = {suite.attrib["name"]: (suite.attrib["tests"], suite.attrib["failures"]) for suite in root}
    assert suites == {"digits/rpi4": ("2", "1"), "digits/rpi5": ("1", "1")}
    text = night_summary.as_text(night)
    assert "RED: digits on rpi4: latency regressed; digits on rpi5: size missing" in text
    assert rated in re.sub(r"\s+", " ", text) and "\x1b" not in text

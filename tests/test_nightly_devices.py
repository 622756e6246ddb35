"""A night on three emulated devices: green; then with a model made slower, and with one device switched off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from targets import emulation
from targets.errors import TargetError
from tests.loopback_sshd import free_port
from tests.requirements_for_tests import skip_or_fail
from tests.test_nightly import failures, verdicts
from tests.workspace import ROOT, Workspace

pytestmark = pytest.mark.device
DEVICES = {"virtual-rpi4": 2224, "virtual-rpi5": 2225, "virtual-android": 8022}
PLAN = "{plan: plan.yaml, set: [%s, train.epochs=1, measure.min_samples=30, measure.max_samples=200]}"
# Two models; what stays as it is has a file of its own.
NIGHTLY = f"""
name: show
plans:
  - {PLAN % "name=steady, model.source='steady.py:build'"}
  - {PLAN % "name=changing"}
targets: [{", ".join(DEVICES)}]
repetitions: 10
emulated: judge
thresholds: {{latency: 0.02, memory: 1.0, metric: 1.0, size: 1.0, detectable: 1.0}}
policy: {{patience: 1, quarantines: 0}}
"""


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Workspace]:
    """A folder whose first night on the three devices has been accepted."""
    farm = Workspace(tmp_path_factory.mktemp("farm"), home)
    (farm.folder / "targets").mkdir()
    for name, usual in DEVICES.items():
        port = free_port()
        try:
            emulation.up(name, port=port)
        except TargetError as error:
            skip_or_fail(str(error))
        text = (ROOT / "targets" / f"{name}.yaml").read_text()
        (farm.folder / "targets" / f"{name}.yaml").write_text(text.replace(f"port: {usual}", f"port: {port}"))
    (farm.folder / "sizes.py").write_text("WIDTH = 512\n")
    (farm.folder / "steady.py").write_text(
        (farm.folder / "model.py").read_text().replace("from sizes import WIDTH", "WIDTH = 512")
    )
    (farm.folder / "nightly.yaml").write_text(NIGHTLY)
    first = farm.run("nightly")
    assert first.code == 1 and first.out.count("no baseline was accepted yet") == 6, first.out + first.err
    accepted = farm.run("baseline", "accept", "runs/latest-night", "--reason", "the first night")
    assert accepted.code == 0, accepted.err
    yield farm
    for name in DEVICES:
        emulation.down(name)


def alarms(document: Any) -> set[str]:
    return {name for name, outcome in verdicts(document).items() if outcome != "pass"}


def test_a_night_on_three_devices_tells_which_model_became_slower_where_and_which_device_is_off(
    farm: Workspace,
) -> None:
    green = farm.run("nightly", "--json")
    assert green.code == 0, alarms(green.json)
    assert len(green.json["verdicts"]) == 2 * 3 * 4 and all(job["emulated"] for job in green.json["jobs"])

    # About a tenth more to compute, and only for one of the two models; and one device is switched off.
    (farm.folder / "sizes.py").write_text("WIDTH = 540\n")
    emulation.down("virtual-android")
    red = farm.run("nightly", "--json")
    assert red.code == 1
    missing = {
        f"{plan}/virtual-android/{metric}"
        for plan in ("steady", "changing")
        for metric in ("latency", "memory", "size", "metric")
    }
    slower = {f"changing/{name}/latency" for name in ("virtual-rpi4", "virtual-rpi5")}
    assert alarms(red.json) == failures(farm) == missing | slower
    found = verdicts(red.json)
    assert {found[name] for name in missing} == {"missing"} and {found[name] for name in slower} == {
        "regressed"
    }

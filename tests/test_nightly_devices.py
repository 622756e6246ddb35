"""A night on emulated devices: green; then with a model that has grown, and with one device switched off."""

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
DEVICES = {"virtual-rpi4": 2224, "virtual-android": 8022}
JUDGED = ("size", "metric")
NIGHTLY = f"""
name: show
plans:
  - plan: plan.yaml
    set: [name=changing, train.epochs=1]
targets: [{", ".join(DEVICES)}]
repetitions: 2
thresholds: {{metric: 1.0}}
policy: {{patience: 1, quarantines: 0}}
"""


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Workspace]:
    """A folder whose first night on the devices has been accepted."""
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
    (farm.folder / "nightly.yaml").write_text(NIGHTLY)
    first = farm.run("nightly")
    assert first.code == 1 and first.out.count("no baseline was accepted yet") == 2, first.out + first.err
    accepted = farm.run("baseline", "accept", "runs/latest-night", "--reason", "the first night")
    assert accepted.code == 0, accepted.err
    yield farm
    for name in DEVICES:
        emulation.down(name)


def alarms(document: Any) -> set[str]:
    return {name for name, outcome in verdicts(document).items() if outcome != "pass"}


def test_a_night_tells_where_a_model_has_grown_and_which_device_is_off(farm: Workspace) -> None:
    green = farm.run("nightly", "--json")
    assert green.code == 0, alarms(green.json)
    # Times of emulated devices are measured and told, and judged only where a plan asks for it.
    assert set(verdicts(green.json)) == {f"changing/{name}/{what}" for name in DEVICES for what in JUDGED}
    for job in green.json["jobs"]:
        assert job["emulated"] and job["variants"]["candidate"]["p50_ms"]["value"] > 0

    (farm.folder / "sizes.py").write_text("WIDTH = 576\n")
    emulation.down("virtual-android")
    red = farm.run("nightly", "--json")
    assert red.code == 1
    missing = {f"changing/virtual-android/{what}" for what in JUDGED}
    grown = "changing/virtual-rpi4/size"
    assert alarms(red.json) == failures(farm) == missing | {grown}
    found = verdicts(red.json)
    assert {found[name] for name in missing} == {"missing"} and found[grown] == "regressed"

"""What meters tell: emulated files of the kernel's, made-up tools, and a session beside them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import pytest

from device_agents import energy, sysfiles
from pipeline.measurement import energy as figures
from pipeline.measurement.measurement import MeterReadings, Spent
from pipeline.reports import html
from tests.agent_process import Agent
from tests.page import Page, rows, section
from tests.results_for_tests import make_result, with_targets

# As its firmware prints it: the current of a rail, then its voltage; of the supply no current.
PMIC = """\
     3V7_WL_SW_A current(0)=0.10000000A
        VDD_CORE_A current(7)=1.50000000A
     3V7_WL_SW_V volt(8)=3.70000000V
        VDD_CORE_V volt(15)=0.80000000V
           EXT5V_V volt(24)=5.10000000V
            BATT_V volt(25)=0.00000000V
"""
SENSORS = {
    "hwmon0/name": "ina226\n",
    "hwmon0/in1_input": "5000\n",
    "hwmon0/curr1_input": "900\n",
    "hwmon0/power1_input": "4600000\n",
    "hwmon1/name": "ina3221\n",
    "hwmon1/in1_label": "VDD_GPU\n",
    "hwmon1/in1_input": "5000\n",
    "hwmon1/curr1_input": "200\n",
    "hwmon1/in2_input": "5000\n",
    # Of a shunt, and the sum of all rails.
    "hwmon1/in4_input": "40\n",
    "hwmon1/curr4_input": "200\n",
    "hwmon2/name": "cpu_thermal\n",
    "hwmon2/power1_input": "1\n",
}
BATTERY = {
    "type": "Battery\n",
    "status": "Discharging\n",
    "current_now": "-500000\n",
    "voltage_now": "4000000\n",
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(sysfiles.ROOT_VARIABLE, str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}")
    return tmp_path


def lay(folder: Path, files: Mapping[str, str]) -> None:
    for path, content in files.items():
        folder.joinpath(path).parent.mkdir(parents=True, exist_ok=True)
        folder.joinpath(path).write_text(content)


def tool(root: Path, name: str, said: str) -> None:
    lay(root, {f"bin/{name}": f"#!/bin/sh\nprintf '{said}'\n"})
    root.joinpath("bin", name).chmod(0o755)


def told() -> dict[str, float | None]:
    return {meter.name: meter.watts() for meter in energy.meters()}


def test_a_device_without_a_meter_has_none(root: Path) -> None:
    tool(root, "vcgencmd", 'error=1 error_msg="Command not registered"\\n')
    assert energy.meters() == []


def test_the_power_chip_of_a_raspberry_pi_5(root: Path) -> None:
    tool(root, "vcgencmd", PMIC)
    assert told() == {"PMIC rails": pytest.approx(0.1 * 3.7 + 1.5 * 0.8)}
    assert "USB" in energy.meters()[0].leaves_out


def test_sensors_of_the_ina_family(root: Path) -> None:
    lay(root / "sys/class/hwmon", SENSORS)
    assert told() == {"ina226 channel 1": pytest.approx(4.6), "ina3221 VDD_GPU": pytest.approx(1.0)}


def test_two_sensors_of_a_kind_are_two_meters(root: Path) -> None:
    for number, milliamperes in ((0, 100), (1, 300), (2, 500)):
        files = {"name": "ina219\n", "in1_input": "5000\n", "curr1_input": f"{milliamperes}\n"}
        lay(root / f"sys/class/hwmon/hwmon{number}", files)
    assert told() == pytest.approx(
        {"ina219 channel 1": 0.5, "ina219 channel 1 of hwmon1": 1.5, "ina219 channel 1 of hwmon2": 2.5}
    )


@pytest.mark.parametrize(
    ("changes", "watts"),
    [
        ({}, {"battery": 2.0}),
        ({"power_now": "3000000\n"}, {"battery": 3.0}),
        ({"status": "Charging\n"}, {}),
        ({"current_now": "\n"}, {}),
    ],
)
def test_a_battery_counts_while_nothing_charges_it(
    changes: dict[str, str], watts: dict[str, float], root: Path
) -> None:
    lay(root / "sys/class/power_supply/battery", BATTERY | changes)
    lay(root / "sys/class/power_supply/ac", {"type": "Mains\n"})
    assert told() == pytest.approx(watts)


def test_a_gauge_tells_from_one_step_to_the_next(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    said = "  status: {}\\n  voltage: 4000\\n  Charge counter: {}\\n"
    tool(root, "dumpsys", said.format(2, 3_000_000))
    assert energy.meters() == []
    tool(root, "dumpsys", said.format(3, 3_000_000))
    meter = energy.meters()[0]
    found = []
    for charge in (3_000_000, 2_999_000, 2_999_000, 2_998_000):
        tool(root, "dumpsys", said.format(3, charge))
        found.append(meter.watts())
    # A thousandth of an ampere hour at 4 V is 14.4 J; its last two steps were 20 s apart.
    assert found == [None, None, None, pytest.approx(14.4 / 20)]
    assert meter.seconds() == 20


@pytest.mark.parametrize(
    ("powered", "status", "counts"),
    [("USB", 3, False), ("Dock", 3, False), ("none", 4, False), ("none", 3, True)],
)
def test_a_gauge_counts_while_nothing_is_connected(
    powered: str, status: int, counts: bool, root: Path
) -> None:
    ways = {way: str(way == powered).lower() for way in ("AC", "USB", "Wireless", "Dock")}
    lines = [f"{way} powered: {said}" for way, said in ways.items()]
    lines += [f"status: {status}", "voltage: 4000", "Charge counter: 3000000"]
    tool(root, "dumpsys", "".join(f"  {line}\\n" for line in lines))
    assert [meter.name for meter in energy.meters()] == ["battery gauge"] * counts


def test_a_gauge_that_was_connected_meanwhile_begins_anew(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    said = "  status: {}\\n  voltage: 4000\\n  Charge counter: {}\\n"
    tool(root, "dumpsys", said.format(3, 3_000_000))
    meter = energy.meters()[0]
    found = []
    for status, charge in ((3, 2_999_000), (2, 3_100_000), (3, 2_999_000), (3, 2_998_000), (3, 2_997_000)):
        tool(root, "dumpsys", said.format(status, charge))
        found.append(meter.watts())
    assert found == [None, None, None, None, pytest.approx(14.4 / 10)]


def test_an_agent_reads_its_meters_while_nothing_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(tmp_path / "root/sys/class/power_supply/battery", BATTERY)
    monkeypatch.setenv(sysfiles.ROOT_VARIABLE, str(tmp_path / "root"))
    agent = Agent(tmp_path)
    power = tmp_path / "root/sys/class/power_supply/battery/power_now"
    # Whoever infers takes 3 W, at rest it is 2.
    spending = f"os.path.exists({str(power)!r}) or open({str(power)!r}, 'w').write('3000000')"
    spans = {
        "seconds": 4 * energy.LOOK_EVERY_S,
        "idle_seconds": 4 * energy.LOOK_EVERY_S,
        "cool_down_seconds": 0,
    }
    job = agent.measurement({"kind": "spend", "variant": "a", **spans}, models={"a": spending})
    before, after, event, done = agent.answer(**job)
    assert (before["when"], after["when"], event["event"], done["event"]) == (
        "before",
        "after",
        "spent",
        "done",
    )
    assert event["inferences"] > 0 and event["ended"] - event["began"] >= spans["seconds"]
    meter = event["meters"][0]
    assert (meter["name"], set(meter["idle_watts"]), set(meter["watts"])) == ("battery", {2.0}, {3.0})
    assert meter["seconds"] == [0.0] * len(meter["watts"])


def test_a_step_that_began_before_the_inferring_does_not_count(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool(root, "dumpsys", "  status: 3\\n  voltage: 4000\\n  Charge counter: 3000000\\n")
    name = "battery gauge"
    idle = [energy.Look(4, name, 1.0, 4)]
    # Before it, across its beginning, within it twice, after it.
    steps = [(8, 7.0, 2), (12, 8.0, 4), (18, 3.0, 6), (20, 4.0, 2), (31, 9.0, 11)]
    looks = iter([idle, [energy.Look(at, name, watts, seconds) for at, watts, seconds in steps]])
    monkeypatch.setattr(energy, "_read", lambda: nullcontext(next(looks)))
    event = energy.observed(lambda: {"began": 10, "ended": 30, "inferences": 1}, 0)
    (meter,) = event["meters"]
    assert (meter["idle_watts"], meter["idle_seconds"]) == ([1.0], [4])
    assert (meter["watts"], meter["seconds"]) == ([3.0, 4.0], [6, 2])


def test_an_agent_without_a_meter_does_not_run_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(sysfiles.ROOT_VARIABLE, str(tmp_path / "root"))
    agent = Agent(tmp_path)
    spans = {"seconds": 60, "idle_seconds": 60, "cool_down_seconds": 0}
    models = {"a": "raise RuntimeError('nobody is to run this')"}
    event = agent.answer(**agent.measurement({"kind": "spend", "variant": "a", **spans}, models=models))[2]
    assert (event["inferences"], event["meters"]) == (0, [])


def spent(*meters: MeterReadings) -> Spent:
    """200 inferences in 10 s."""
    return Spent(step=9, began=5, ended=15, inferences=200, meters=meters)


def test_energy_of_an_inference() -> None:
    rails = MeterReadings(name="PMIC rails", leaves_out="USB", idle_watts=(2, 2.2), watts=(3, 3.2))
    found = figures.summarise(spent(rails)).meters[0]
    assert found.joules == pytest.approx(3.1 * 0.05) and found.joules_above_idle == pytest.approx(0.05)
    assert found.sentence == (
        "energy: 155 mJ an inference (3.1 W), 50 mJ above rest (2.1 W), by PMIC rails, which leaves out USB"
    )
    silent = figures.summarise(spent(rails.model_copy(update={"watts": ()})))
    assert silent.meters[0].joules is None and "no reading" in silent.sentence
    assert "has no meter" in figures.summarise(spent()).sentence


def test_a_reading_of_twice_as_long_counts_twice() -> None:
    gauge = MeterReadings(
        name="battery gauge",
        leaves_out="",
        idle_watts=(1, 1),
        idle_seconds=(1, 9),
        watts=(6, 3),
        seconds=(10, 20),
    )
    assert figures.summarise(spent(gauge)).meters[0].watts == pytest.approx(4.0)
    moments = gauge.model_copy(update={"seconds": (0, 0)})
    assert figures.summarise(spent(moments)).meters[0].watts == pytest.approx(4.5)
    with pytest.raises(ValueError, match="2 readings of battery gauge with the seconds of 1"):
        MeterReadings.model_validate({**gauge.model_dump(), "seconds": (1,)})


def test_energy_is_on_the_page_with_what_it_leaves_out() -> None:
    result = make_result()
    rails = MeterReadings(name="PMIC rails", leaves_out="USB", idle_watts=(2.1,), watts=(3.1,))
    target = result.targets["local"]
    summaries = {
        name: each.model_copy(update={"energy": figures.summarise(spent(rails))})
        for name, each in target.summaries.items()
    }
    result = with_targets(result, local=target.model_copy(update={"summaries": summaries}))
    table = rows(next(section(Page(html.render(result)).root, "local").all("table", class_="variants")))
    title = "energy an inference by PMIC rails (leaves out: USB)"
    assert [cell.text.strip() for cell in table[title]] == ["155 mJ"] * 3
    assert [cell.text.strip() for cell in table["above rest, by PMIC rails"]] == ["50 mJ"] * 3

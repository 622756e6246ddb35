"""What the agent sees of a device's state, on emulated files of the kernel's and made-up tools."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from device_agents import clocks, cooling, environment, sysfiles
from device_agents.neighbours import Neighbours
from device_agents.watch import Watch

BOARD = {
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "proc/device-tree/serial-number": "10000000deadbeef\0",
    "proc/device-tree/chosen/bootloader/version": "abcdef0\0",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1500000\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "<unknown>\n",
    "sys/class/thermal/thermal_zone0/temp": "61250\n",
    "sys/class/thermal/thermal_zone1/temp": "\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
    "proc/loadavg": "1.25 0.50 0.10 2/300 4711\n",
    "proc/pressure/cpu": "some avg10=3.10 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00\n",
    "proc/meminfo": "MemTotal:  1000 kB\nMemAvailable: 400 kB\nBuffers: 1 kB\nSwapTotal: 8 kB\nSwapFree: 4 kB\n",
    "proc/vmstat": "nr_free_pages 12\npswpin 30\npswpout 40\n",
}
PHONE = {
    "sys/class/power_supply/usb/type": "USB\n",
    "sys/class/power_supply/battery/type": "Battery\n",
    "sys/class/power_supply/battery/capacity": "81\n",
    "sys/class/power_supply/battery/temp": "305\n",
    "sys/class/power_supply/battery/status": "Discharging\n",
}
BATTERY = r"Current Battery Service state:\n  AC powered: false\n  USB powered: true\n  level: 57\n  temperature: 289\n"
HEAT = r"IsStatusOverride: false\nThermal Status: 2\nCached temperatures:\n"
DUMPSYS = f"""#!/bin/sh
[ "$1" = battery ] && printf '{BATTERY}'
[ "$1" = thermalservice ] && printf '{HEAT}'
exit 0
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(sysfiles.ROOT_VARIABLE, str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def lay(root: Path, files: Mapping[str, str]) -> None:
    for path, content in files.items():
        root.joinpath(path).parent.mkdir(parents=True, exist_ok=True)
        root.joinpath(path).write_text(content)


def tool(root: Path, name: str, script: str) -> None:
    lay(root, {f"bin/{name}": script})
    root.joinpath("bin", name).chmod(0o755)


def stat(name: str, ticks: int, start: int = 5) -> str:
    """A line of /proc/PID/stat: the ticks spent are its 14th and 15th field, the start its 22nd."""
    return f"1 ({name}) S {' '.join(['0'] * 10)} {ticks} 0 {' '.join(['0'] * 5)} 0 {start} 0 0\n"


def test_what_a_board_tells(root: Path) -> None:
    lay(root, BOARD)
    found = environment.observe()
    expected = {
        "board": "Raspberry Pi 5 Model B Rev 1.0",
        "firmware": {"bootloader": "abcdef0"},
        "governors": {"cpu0": "ondemand"},
        "frequencies_hz": {"cpu0": 1_500_000_000},
        "temperatures_c": {"thermal_zone0": 61.25},
        "throttled": 0x50005,
        "load_average": [1.25, 0.5, 0.1],
        "pressure": {"cpu": 3.1},
        "memory": {"total": 1_024_000, "available": 409_600, "swap_total": 8192, "swap_free": 4096},
        "swapped_pages": {"in": 30, "out": 40},
        "thermal_status": None,
        "battery": {},
    }
    assert {key: found[key] for key in expected} == expected
    assert "deadbeef" not in str(found)


def test_what_a_device_does_not_tell_is_absent(root: Path) -> None:
    found = environment.observe()
    nothing = (
        "firmware",
        "governors",
        "frequencies_hz",
        "temperatures_c",
        "pressure",
        "memory",
        "swapped_pages",
    )
    assert [found[key] for key in nothing] == [{}] * len(nothing)
    assert (found["board"], found["throttled"], found["load_average"], found["battery"]) == (
        None,
        None,
        None,
        {},
    )


def test_a_phone_tells_of_battery_and_heat_as_far_as_it_lets_one_ask(root: Path) -> None:
    lay(root, PHONE)
    by_files = environment.observe()
    assert by_files["battery"] == {"level_percent": 81, "temperature_c": 30.5, "status": "Discharging"}
    assert by_files["thermal_status"] is None
    tool(root, "dumpsys", DUMPSYS)
    asked = environment.observe()
    assert asked["battery"] == {"level_percent": 57, "temperature_c": 28.9, "mains": False, "usb": True}
    assert asked["thermal_status"] == 2
    tool(root, "dumpsys", "#!/bin/sh\necho Permission Denial\nexit 1\n")
    assert environment.observe() | {"clocks_s": 0} == by_files | {"clocks_s": 0}


def test_other_programs_are_told_by_name_and_share(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([100.0, 102.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds))
    second = os.sysconf("SC_CLK_TCK")
    lay(
        root,
        {
            "proc/10/stat": stat("a (b) c", 7),
            "proc/11/stat": stat("idle", 5),
            f"proc/{os.getpid()}/stat": stat("own", 0),
        },
    )
    found = Neighbours()
    lay(
        root,
        {
            "proc/10/stat": stat("a (b) c", 7 + second),
            # Another process by now, which took its id.
            "proc/11/stat": stat("new", 2 * second, start=900),
            f"proc/{os.getpid()}/stat": stat("own", 9 * second),
            "proc/12/stat": "gone",
        },
    )
    assert found.busiest() == [{"name": "new", "share": 1.0}, {"name": "a (b) c", "share": 0.5}]


def test_a_watch_tells_what_went_on_meanwhile(root: Path) -> None:
    lay(root, BOARD)
    watch = Watch()
    lay(root, {"proc/vmstat": "pswpin 31\npswpout 49\n"})
    found = watch.seen()
    assert found["swapped_pages"] == {"in": 1, "out": 9}
    assert (found["throttled"], found["load_average"], found["neighbours"]) == (0x50005, [1.25, 0.5, 0.1], [])


def test_clocks_are_read_again_until_one_moment_was_hit(monkeypatch: pytest.MonkeyPatch) -> None:
    # The first reading is torn apart by 10 ms between the first clock and the last.
    now = iter([0, 1, 2, 3, 10_000_000, *range(10_000_001, 10_000_006)])
    monkeypatch.setattr(time, "clock_gettime_ns", lambda clock: next(now))
    assert clocks.now_ns() == {"monotonic": 10_000_002, "monotonic_raw": 10_000_003, "boottime": 10_000_004}
    monkeypatch.undo()
    before = clocks.now_ns()
    passed = clocks.elapsed_ns(before, clocks.now_ns())
    assert set(passed) == {"monotonic", "monotonic_raw", "boottime"} and min(passed.values()) >= 0


class Resting:
    """A clock that only resting moves on; the board cools by 2 degrees a second."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, degrees: float | None) -> None:
        self.root, self.now, self.degrees = root, 0.0, degrees
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.sleep)
        self.sleep(0)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.degrees is not None:
            self.degrees -= 2 * seconds
            lay(self.root, {"sys/class/thermal/thermal_zone0/temp": f"{round(1000 * self.degrees)}"})


@pytest.mark.parametrize(
    ("degrees", "aim", "seconds", "reason"),
    [
        (70, {"thermal_zone0": 60.0}, 5, "as cool as in the beginning"),
        (60.5, {"thermal_zone0": 60.0}, 0, "as cool as in the beginning"),
        (90, {"thermal_zone0": 60.0}, 8, "the time was up"),
        (70, {"gone": 60.0}, 8, "it has no thermometer"),
        (None, {}, 8, "it has no thermometer"),
    ],
)
def test_a_device_rests_until_it_is_cool_or_the_time_is_up(
    degrees: float | None,
    aim: dict[str, float],
    seconds: float,
    reason: str,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resting = Resting(root, monkeypatch, degrees)
    found: dict[str, Any] = cooling.rest(8.0, aim)
    assert (found["seconds"], found["reason"], resting.now) == (seconds, reason, seconds)


def test_a_board_that_is_still_throttled_rests_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(root, BOARD)
    Resting(root, monkeypatch, 40)
    assert cooling.rest(3.0, {"thermal_zone0": 60.0})["seconds"] == 3

"""What power the device takes, where it has a meter that we may read.

Meters are read by the launcher, while a process of its own does nothing but infer and times nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, Callable, NamedTuple

from device_agents import sysfiles
from device_agents.android import BATTERY
from device_agents.speed import command_output

LOOK_EVERY_S = 0.25
MICRO, MILLI, HOUR_S = 1e-6, 1e-3, 3600
# What dumpsys calls a battery that the device draws from (BatteryManager.BATTERY_STATUS_DISCHARGING). One that is only
# not charging (4) may be connected.
DISCHARGING = "3"
CONNECTED = re.compile(r"^\s+(AC|USB|Wireless|Dock) powered: true\s*$", re.MULTILINE)
HWMON = "/sys/class/hwmon/hwmon*"
WHOLE_DEVICE = "nothing: display and radios are in it"


class Meter(NamedTuple):
    """`watts` reads it, None where there is no news; `leaves_out` is what of the device it does not see. `seconds` is
    of how long the latest reading was the mean, 0: of a moment.
    """

    name: str
    leaves_out: str
    watts: Callable[[], float | None]
    seconds: Callable[[], float] = lambda: 0.0


class Look(NamedTuple):
    """What a meter told `at` an instant of the clock: watts, the mean of the `seconds` until then, 0: of a moment."""

    at: float
    meter: str
    watts: float
    seconds: float


def meters() -> list[Meter]:
    """Those that this device has and lets us read; a battery's only while nothing charges it."""
    return [*_pmic(), *_ina2xx(), *(_battery() or _gauge())]


def _pmic() -> list[Meter]:
    """A Raspberry Pi 5's power chip."""
    left_out = "USB devices, display, fan, boards on top, and what the conversion of 5 V loses"
    return [Meter("PMIC rails", left_out, _rails)] if _rails() is not None else []


def _rails() -> float | None:
    """The sum over all rails of which `vcgencmd pmic_read_adc` tells current and voltage."""
    said = command_output("vcgencmd", "pmic_read_adc") or ""
    found: dict[str, dict[str, float]] = {}
    for rail, quantity, value in re.findall(r"(\w+)_([AV])\b[^=\n]*=([\d.]+)[AV]", said):
        found.setdefault(rail, {})[quantity] = float(value)
    powers = [rail["A"] * rail["V"] for rail in found.values() if len(rail) == 2]
    return sum(powers) if powers else None


def _ina2xx() -> list[Meter]:
    """Sensors of TI's INA family by the kernel's hwmon drivers, each channel a meter: one may supply another."""
    found: dict[str, Meter] = {}
    for folder in sysfiles.find(HWMON):
        chip = sysfiles.read(f"{folder}/name") or ""
        # What an INA3221 has beyond its three rails are voltages of shunts, and a sum of currents.
        for channel in range(1, 4) if re.fullmatch(r"ina\d+", chip) else ():
            watts = partial(_channel, folder, channel)
            if watts() is not None:
                label = sysfiles.read(f"{folder}/in{channel}_label") or f"channel {channel}"
                name = f"{chip} {label}"
                name = f"{name} of {os.path.basename(folder)}" if name in found else name
                found[name] = Meter(name, "what is not supplied through it", watts)
    return list(found.values())


def _channel(folder: str, channel: int) -> float | None:
    """Microwatts where the driver tells them, else milliamperes times millivolts."""
    microwatts, milliamperes, millivolts = (
        sysfiles.number(f"{folder}/{quantity}{channel}_input") for quantity in ("power", "curr", "in")
    )
    if microwatts is not None:
        return microwatts * MICRO
    if milliamperes is None or millivolts is None:
        return None
    return milliamperes * MILLI * millivolts * MILLI


def _battery() -> list[Meter]:
    """A battery by sysfs."""
    for folder in sysfiles.find(f"{BATTERY}/*"):
        if sysfiles.read(f"{folder}/type") == "Battery":
            watts = partial(_discharge, folder)
            return [Meter("battery", WHOLE_DEVICE, watts)] if watts() is not None else []
    return []


def _discharge(folder: str) -> float | None:
    """Microwatts, or microamperes (of whose sign vendors do not agree) times microvolts; none while it is charged."""
    if sysfiles.read(f"{folder}/status") != "Discharging":
        return None
    power, current, voltage = (
        sysfiles.number(f"{folder}/{quantity}_now") for quantity in ("power", "current", "voltage")
    )
    if power is not None:
        return abs(power) * MICRO
    return None if current is None or voltage is None else abs(current) * MICRO * voltage * MICRO


def _gauge() -> list[Meter]:
    """A phone's battery by `dumpsys battery`, which adb's shell may ask where it may not read sysfs."""
    meter = _Gauge()
    meter()
    left_out = f"{WHOLE_DEVICE}; it counts in steps, and a short run tells little or nothing"
    return [] if meter.charge is None else [Meter("battery gauge", left_out, meter, lambda: meter.seconds)]


class _Gauge:
    """The charge that is left, in microampere hours: watts from one of its steps to the next."""

    def __init__(self) -> None:
        self.charge: int | None = None
        self.seconds = 0.0
        self._stepped_at: float | None = None

    def __call__(self) -> float | None:
        said = command_output("dumpsys", "battery") or ""
        known = dict(re.findall(r"^\s+([\w ]+): (-?\d+)\s*$", said, re.MULTILINE))
        drawn = known.get("status") == DISCHARGING and not CONNECTED.search(said)
        if not drawn or not {"Charge counter", "voltage"} <= set(known):
            self.charge = self._stepped_at = None
            return None
        now, before, since = time.monotonic(), self.charge, self._stepped_at
        self.charge = int(known["Charge counter"])
        if before is None or before == self.charge:
            return None
        self._stepped_at = now
        if since is None:
            return None
        self.seconds = now - since
        joules = (before - self.charge) * MICRO * HOUR_S * int(known["voltage"]) * MILLI
        return joules / self.seconds


def observed(run: Callable[[], dict[str, Any]], idle_seconds: float) -> dict[str, Any]:
    """The event of `run`, a process that tells from when on (`began`) and until when (`ended`) it inferred, with the
    readings in watts of each meter meanwhile, and at rest before, with their seconds. Without a meter nothing is run.
    """
    found = meters()
    if not found:
        return {"event": "spent", "began": 0.0, "ended": 0.0, "inferences": 0, "meters": []}
    with _read() as idle:
        time.sleep(idle_seconds)
    with _read() as busy:
        event = run()
    # A step that began while the model was loaded tells of that, too.
    read = [look for look in busy if event["began"] <= look.at - look.seconds and look.at <= event["ended"]]
    told = [
        {
            "name": meter.name,
            "leaves_out": meter.leaves_out,
            **{
                f"{when}{key}": [getattr(look, key) for look in looks if look.meter == meter.name]
                for when, looks in (("idle_", idle), ("", read))
                for key in ("watts", "seconds")
            },
        }
        for meter in found
    ]
    return {**event, "meters": told}


@contextlib.contextmanager
def _read() -> Iterator[list[Look]]:
    """Read every meter over and over meanwhile."""
    looks: list[Look] = []
    found, over = meters(), threading.Event()

    def look() -> None:
        while not over.wait(LOOK_EVERY_S):
            for meter in found:
                watts, now = meter.watts(), time.monotonic()
                if watts is not None:
                    looks.append(Look(now, meter.name, watts, meter.seconds()))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield looks
    finally:
        over.set()
        thread.join()

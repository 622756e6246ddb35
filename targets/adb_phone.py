"""Which of the adb server's devices is meant, and what keeps it from being used; a sentence for each case."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass

from targets.adb_server import Gone, Options, Overdue, Refused, ask_server, see_that_it_runs
from targets.errors import NotReached, TargetError

_POLL_S = 0.1
_PASSING = ("offline", "connecting", "authorizing")
_ADDRESS = re.compile(r"\A\S+:[0-9]{1,5}\Z")


@dataclass(frozen=True)
class Phone:
    """A line of `adb devices -l`: `state` is `device` when it can be used."""

    serial: str
    state: str
    model: str

    @classmethod
    def parse(cls, line: str) -> Phone:
        """`R58M1234  device usb:1-2 product:o1s model:SM_G991B device:o1s transport_id:1`."""
        serial, _, rest = line.partition(" ") if "\t" not in line else line.partition("\t")
        state = re.split(r"\s+(?:usb|product|model|device|transport_id):", rest.strip())[0]
        model = re.search(r"\bmodel:(\S+)", rest)
        return cls(serial, state.strip(), model.group(1).replace("_", " ") if model else "unknown model")


def find_phone(options: Options) -> str:
    """The serial of the device that is meant, ready for use. Raises `TargetError` within `connect_timeout_s`."""
    deadline = time.monotonic() + options.connect_timeout_s
    host, port = options.address
    try:
        see_that_it_runs(options, deadline)
        wanted = options.serial or os.environ.get("ANDROID_SERIAL") or None
        phone = _ready(options, wanted, deadline)
        features = ask_server(options, f"host-serial:{phone.serial}:features", deadline)
    except Refused as error:
        raise TargetError(f"the adb server at {host}:{port} refused: {error}") from error
    except (Overdue, Gone) as error:
        what = "did not answer" if isinstance(error, Overdue) else "closed the connection"
        raise TargetError(
            f"the adb server at {host}:{port} {what} within {options.connect_timeout_s:g} s",
            "start it anew: adb kill-server; connect_timeout_s allows it more time",
        ) from error
    if "shell_v2" not in features.split(","):
        raise TargetError(
            f"the adb daemon of {phone.serial} ({phone.model}) has no shell_v2, which tells exit codes",
            "Android 7 or later is needed",
        )
    return phone.serial


def _ready(options: Options, wanted: str | None, deadline: float) -> Phone:
    """The device, as soon as it is in the state `device`; states that pass are waited for."""
    answer = ""
    while True:
        phones = _listed(options, deadline)
        phone = _chosen(phones, wanted)
        if phone is None and wanted and _ADDRESS.match(wanted) and not answer:
            answer = ask_server(options, f"host:connect:{wanted}", deadline)
            continue
        if phone is None:
            raise _missing(phones, wanted, answer)
        if phone.state == "device":
            return phone
        if phone.state not in _PASSING or time.monotonic() + _POLL_S > deadline:
            raise unusable(phone.serial, phone.state)
        time.sleep(_POLL_S)


def _listed(options: Options, deadline: float) -> list[Phone]:
    answer = ask_server(options, "host:devices-l", deadline)
    found = [Phone.parse(line) for line in answer.splitlines() if line.strip()]
    return sorted(found, key=lambda phone: phone.serial)


def _chosen(phones: list[Phone], wanted: str | None) -> Phone | None:
    if wanted is not None:
        return next((phone for phone in phones if phone.serial == wanted), None)
    if len(phones) > 1:
        raise TargetError(
            f"several devices are at the adb server: {_in_words(phones)}",
            "name one with the target's adb.serial, or in the environment variable ANDROID_SERIAL",
        )
    return phones[0] if phones else None


def _in_words(phones: list[Phone]) -> str:
    return ", ".join(
        f"{phone.serial} ({phone.model if phone.state == 'device' else phone.state})" for phone in phones
    )


def _missing(phones: list[Phone], wanted: str | None, answer: str) -> NotReached:
    if wanted is None:
        return NotReached(
            "no device is at the adb server",
            "connect the phone with USB debugging switched on (Settings, Developer options), or over the network: "
            "adb.serial is then its address and port; `adb devices` must show it",
        )
    if answer:
        return NotReached(
            f"the adb server could not connect to {wanted}: {answer}",
            "is the phone on this network, with wireless debugging on? Android 11 and later first want `adb pair`, "
            "and change the port",
        )
    there = f"those there: {_in_words(phones)}" if phones else "no device is there at all"
    return NotReached(
        f"the adb server has no device {wanted}; {there}",
        "is the phone on, its cable in, and USB debugging switched on?",
    )


def unusable(serial: str, state: str) -> TargetError:
    """Why a device that is listed cannot be used, from its state or from the server's refusal."""
    if "unauthorized" in state or "authorizing" in state:
        return TargetError(
            f"{serial} does not trust this computer yet (unauthorized)",
            "unlock the phone and accept the dialog 'Allow USB debugging?'; if none comes, revoke the USB debugging "
            "authorisations in Developer options and plug it in again",
        )
    if "offline" in state or "connecting" in state:
        return TargetError(
            f"{serial} is at the adb server, but its adb daemon does not answer (offline)",
            "wake the phone and plug it in again; over the network: adb disconnect, then again",
        )
    if "permission" in state:
        return TargetError(
            f"{serial}: the adb server may not open the USB device ({state})",
            "Debian, Ubuntu: apt-get install android-sdk-platform-tools-common, join the group plugdev, log in again, "
            "then adb kill-server",
        )
    if "not found" in state:
        return TargetError(
            f"{serial} is no longer at the adb server", "is the phone on, and its cable in or its network up?"
        )
    return TargetError(f"{serial} cannot be used: {state}", "expected the state 'device' in `adb devices`")

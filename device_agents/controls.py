"""Settings of the whole device while it measures: its governors, and Android's fixed performance mode.

What they were is written down beside the lock before anything is changed. So they come back in the end, after a
failure, a signal or a host that left; and after SIGKILL with the next job that measures or cleans.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from device_agents import speed, sysfiles
from device_agents.failure import Failure
from device_agents.files import replacing
from device_agents.job import Job

GOVERNORS = f"{speed.CPUFREQ}/scaling_governor"
FIXED = ("cmd", "power", "set-fixed-performance-mode-enabled")
BOOT = "/proc/sys/kernel/random/boot_id"


def wanted(controls: Job) -> dict[str, Any]:
    """What a job asks of the device: `governor` (None: as it is) and `fixed_performance`."""
    governor = controls.fields.get("governor")
    if governor is not None and not isinstance(governor, str):
        raise Failure("job", f"expected {controls.name}.governor to be a name. Received: {governor!r}")
    return {"governor": governor, "fixed_performance": controls.fields.get("fixed_performance") is True}


@contextlib.contextmanager
def held(lock_path: str, governor: str | None, fixed_performance: bool) -> Iterator[dict[str, Any]]:
    """The device so set for the block, as far as it lets us: yields what was set, and what was `refused`, in words.

    To be entered by who holds the lock. What an earlier job left set is undone first.
    """
    journal = _journal(lock_path)
    undo(lock_path)
    before = {path: sysfiles.read(path) for path in sysfiles.find(GOVERNORS)} if governor else {}
    changed = {path: value for path, value in before.items() if value and value != governor}
    if not changed and not fixed_performance:
        yield {"refused": [f"governor {governor}: no core has any"] if governor and not before else []}
        return
    with replacing(journal) as stream:
        noted = {"boot": sysfiles.read(BOOT), "governors": changed, "fixed_performance": fixed_performance}
        stream.write(json.dumps(noted).encode())
    try:
        refused = [*_govern(changed, governor or ""), *(_fix() if fixed_performance else ())]
        yield {"governors_before": list(changed.values()), "refused": refused}
    finally:
        undo(lock_path)


def undo(lock_path: str) -> None:
    """Set back what a journal beside the lock says was set; since the device started anew, nothing is."""
    journal = _journal(lock_path)
    try:
        with open(journal, encoding="utf-8") as stream:
            noted = json.load(stream)
    except FileNotFoundError:
        return
    except ValueError:
        noted = {}
    if noted.get("boot") == sysfiles.read(BOOT):
        for path, value in noted.get("governors", {}).items():
            try:
                sysfiles.write(path, value)
            except OSError as error:
                print(f"{path} could not be set back to {value}: {error}", file=sys.stderr)
        if noted.get("fixed_performance"):
            speed.command_output(*FIXED, "false")
    os.unlink(journal)


def _journal(lock_path: str) -> str:
    return f"{lock_path}.undo"


def _govern(paths: dict[str, str], governor: str) -> list[str]:
    """Cores that share a clock share a governor as well: one refusal of a kind is told."""
    refused = []
    for path in paths:
        try:
            sysfiles.write(path, governor)
        except OSError as error:
            refused.append(f"governor {governor}: {error.strerror}")
    return list(dict.fromkeys(refused))


def _fix() -> list[str]:
    if speed.command_output(*FIXED, "true") is None:
        return ["fixed_performance: Android's `cmd power` is not there, or does not permit it"]
    return []

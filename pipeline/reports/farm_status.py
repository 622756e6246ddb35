"""A farm's devices and what happened to them, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from pipeline.reports import notation

STATES = ("queued", "running", "done", "failed")


def tables(found: Mapping[str, Any]) -> list[Table]:
    """What `overview.document` holds: the devices, then the events if there are any."""
    devices = _table("device", "lent to", "standing", *STATES)
    for each in found["devices"]:
        lent = f"{each['holder']}, for {each['lease_s']:.0f} s" if each["holder"] else "nobody"
        counts = (str(each["jobs"].get(state, 0)) for state in STATES)
        devices.add_row(*map(Text, (each["device"], lent, _standing(each), *counts)))
    events = _table("at", "device", "what", "token", "by", "")
    for each in found["events"]:
        row = (each["device"], each["what"], str(each["token"]), each["holder"], each["detail"])
        events.add_row(*map(Text, (notation.instant(each["at"]), *row)))
    return [devices, events] if found["events"] else [devices]


def _standing(device: Mapping[str, Any]) -> str:
    if device["aside_s"]:
        return f"aside for {device['aside_s']:.0f} s: {device['reason']}"
    if device["failures"]:
        return f"failed {device['failures']} times in a row: {device['reason']}"
    return "well"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column)
    return table

"""Builds the folder an emulated device lives in: an Arm userland, its hardware's files, keys.

FOLDER/rootfs/       what the device sees as /
FOLDER/id_ed25519    the key that may log in
FOLDER/known_hosts   the device's host key, as SSH clients expect it
FOLDER/device.json   the description it was built from
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from targets.emulation import android_userland, debian_userland
from targets.emulation.devices import ADDRESS, Core, Device
from targets.emulation.keys import make_key


def build(device: Device, folder: Path) -> None:
    """Fill `folder`, which must not exist, or raise `TargetError`."""
    root = folder / "rootfs"
    folder.mkdir()
    make_key(folder / "id_ed25519", comment=f"edgepipe-{device.name}")
    fill = android_userland.fill if device.userland == "android" else debian_userland.fill
    public = fill(device, folder).split()
    (folder / "known_hosts").write_text(f"[{ADDRESS}]:{device.port} {public[0]} {public[1]}\n")
    _add_hardware(device, root)
    (folder / "device.json").write_text(json.dumps(asdict(device), indent=2))


def server(device: Device) -> tuple[str, ...]:
    """What the device's first process becomes."""
    return android_userland.server(device) if device.userland == "android" else debian_userland.SERVER


def ready(device: Device) -> str:
    """What its log says once it takes logins."""
    return android_userland.READY if device.userland == "android" else debian_userland.READY


def built_from(folder: Path) -> Device | None:
    """The description `folder` was built from; None when it holds no finished device of this version."""
    try:
        recorded = json.loads((folder / "device.json").read_text())
        recorded["core"], recorded["packages"] = Core(**recorded["core"]), tuple(recorded["packages"])
        return Device(**recorded)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _add_hardware(device: Device, root: Path) -> None:
    (root / "etc/cpuinfo").write_text(device.cpuinfo())
    processors = root / "sys/devices/system/cpu"
    processors.mkdir(parents=True)
    for name in ("possible", "present", "online"):
        (processors / name).write_text(f"0-{device.cores - 1}\n")

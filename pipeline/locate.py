"""Find plans and targets: in the working folder first, then beside the plan, then in the package."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import UserError
from pipeline.plan import PlanBase, plan_model
from pipeline.strict_yaml import read_yaml, suggest
from targets.target import TargetBase, target_model


def package_folders() -> list[Path]:
    """Where the package's own plans and targets lie: installed, and in a checkout."""
    here = Path(__file__).parent
    targets = importlib.util.find_spec("targets")
    beside = [Path(folder).parent for folder in (targets.submodule_search_locations or [])] if targets else []
    return [here, *beside]


def read_plan(name: str, overrides: Iterable[str] = ()) -> tuple[PlanBase, Path]:
    """The plan of that name or path, and the folder that its paths are relative to. Raises `UserError`."""
    path = _find([Path(name)], [Path(), *package_folders()])
    if path is None:
        raise UserError(
            f"{name}: no such plan here or in the package; expected a YAML file, for example pipeline.yaml"
        )
    return read_yaml(path, plan_model(), overrides=overrides), path.absolute().parent


def read_target(name: str, plan_folder: Path | None = None, host: str = "") -> TargetBase:
    """The target of that name (`rpi4` is `targets/rpi4.yaml`) or path.

    `host` is `[user@]host[:port]`, or over adb a serial, instead of the target's own. Raises `UserError`
    with every mistake in the file, or with the names there are.
    """
    folders = [Path(), *([plan_folder] if plan_folder else []), *package_folders()]
    wanted = Path(name) if name.endswith(".yaml") else Path("targets", f"{name}.yaml")
    path = _find([wanted], folders)
    if path is None:
        known = sorted({found.stem for folder in folders for found in (folder / "targets").glob("*.yaml")})
        raise UserError(f"{name}: no such target; {suggest(name, known)}")
    target = read_yaml(path, target_model())
    if not host:
        return target
    if target.transport == "adb":
        return read_yaml(path, target_model(), overrides=[f"adb.serial={json.dumps(host)}"])
    if target.transport != "ssh":
        raise UserError(
            f"--host {host}: the target {name} is reached by {target.transport}, not by ssh or adb"
        )
    return read_yaml(path, target_model(), overrides=_host_overrides(host))


def target_files(plan_folder: Path | None = None) -> dict[str, Path]:
    """Name and file of every target there is; of two with one name, the one that `read_target` takes."""
    found: dict[str, Path] = {}
    for folder in [Path(), *([plan_folder] if plan_folder else []), *package_folders()]:
        for path in (folder / "targets").glob("*.yaml"):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def _host_overrides(host: str) -> list[str]:
    """`[user@]host[:port]`; an IPv6 address with a port stands in brackets."""
    user, at, address = host.rpartition("@")
    if ":" in user:
        raise UserError("--host: expected [user@]host[:port], without a password; keys let edgepipe in")
    name, _, port = address.partition(":")
    if address.startswith("["):
        name, _, port = address[1:].partition("]")
        port = port.removeprefix(":")
    elif address.count(":") > 1:
        name, port = address, ""
    given = {"ssh.user": user if at else "", "ssh.host": f"'{name}'", "ssh.port": port}
    return [f"{key}={value}" for key, value in given.items() if value]


def _find(names: Iterable[Path], folders: Iterable[Path]) -> Path | None:
    places = (folder / name for folder in folders for name in names)
    return next((place for place in places if place.is_file()), None)

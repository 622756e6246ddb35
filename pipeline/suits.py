"""Which runtime and kind of cores a target's files are to suit, as far as its file tells."""

from __future__ import annotations

from typing import cast, get_args

from pipeline import deployment
from pipeline.errors import UserError
from pipeline.sparse_tflite.suited import Suit
from targets.cores import Core, of_this_machine
from targets.errors import TargetError
from targets.probe import probe
from targets.provisioning import runtime_of as runtime_on
from targets.target import TargetBase, connect, python_of


def suit_of(name: str, target: TargetBase) -> Suit | None:
    """The runtime and the kind of core of a target; None for either, or for both, where only the device could tell."""
    try:
        runtime = runtime_of(name, target)
    except (UserError, TargetError):
        return None
    if not deployment.has_rules(runtime):
        return None
    try:
        return runtime, cast(Core, core_of(name, target))
    except UserError:
        return runtime, None


def runtime_of(name: str, target: TargetBase) -> str:
    """The runtime a target uses. Raises `UserError` where only the device could tell."""
    if target.runtime != "auto":
        return target.runtime
    if target.transport != "local":
        raise UserError(
            f"--target {name}: its runtime is auto, which only the device can settle; "
            "name one: --runtime ai-edge-litert"
        )
    return runtime_on(target, probe(connect(target), python_of(target), ""))


def core_of(name: str, target: TargetBase) -> str:
    """The kind of a target's cores. Raises `UserError` where nobody has said it."""
    kind = target.core or (of_this_machine() if target.transport == "local" else None)
    if kind is None:
        known = " | ".join(get_args(Core))
        raise UserError(
            f"--target {name}: the kind of its cores is not known; write core: {known} into its file, "
            "or name one: --core arm"
        )
    return kind

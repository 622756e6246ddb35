"""Which pruned variant is installed, and why that one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pipeline.measurement.gates import Gate
from pipeline.measurement.measurement import Measurement, Record
from pipeline.measurement.statistics import Estimate, ratio

CANDIDATES = ("dense", "sparse")


class Winner(Record):
    """The variant to install and what decided; `speed` is sparse's median latency over dense's."""

    variant: Literal["dense", "sparse"]
    verdict: Literal["sparse wins", "sparse for size only", "dense wins", "only one passed"]
    reason: str
    speed: Estimate


def passed(gates: tuple[Gate, ...]) -> bool:
    """Did every gate that counts hold?"""
    return all(gate.passed or gate.advisory for gate in gates)


def choose(
    measurements: Mapping[str, Measurement],
    gates: Mapping[str, tuple[Gate, ...]],
    file_bytes: Mapping[str, int],
) -> Winner | None:
    """Among the pruned variants that hold their gates: the faster beyond the interval, else the smaller, else dense.

    None when neither holds. The baseline is never chosen.
    """
    speed = ratio(measurements["sparse"], measurements["dense"])
    standing = [name for name in CANDIDATES if passed(gates[name])]
    if not standing:
        return None
    if len(standing) == 1:
        other = "sparse" if standing[0] == "dense" else "dense"
        return Winner(
            variant=standing[0], verdict="only one passed", reason=f"{other} failed a gate", speed=speed
        )
    if measurements["sparse"].digest == measurements["dense"].digest:
        reason = "nothing is stored sparsely, both are one and the same file"
        return Winner(variant="dense", verdict="dense wins", reason=reason, speed=speed)
    between = f"sparse takes {speed.value:.3f} of dense's time ({_span(speed)})"
    if speed.high is not None and speed.high < 1:
        return Winner(variant="sparse", verdict="sparse wins", reason=f"{between}: faster", speed=speed)
    if speed.low is not None and speed.low > 1:
        return Winner(variant="dense", verdict="dense wins", reason=f"{between}: slower", speed=speed)
    sizes = f"{file_bytes['sparse']:,} bytes against {file_bytes['dense']:,}"
    if file_bytes["sparse"] < file_bytes["dense"]:
        reason = f"{between}: no difference shown; the file is smaller, {sizes}"
        return Winner(variant="sparse", verdict="sparse for size only", reason=reason, speed=speed)
    reason = f"{between}: no difference shown; the file is no smaller, {sizes}"
    return Winner(variant="dense", verdict="dense wins", reason=reason, speed=speed)


def _span(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return "one repetition, no interval"
    return f"95 % interval {estimate.low:.3f} to {estimate.high:.3f}"

"""Right or refused: what is written for 500 generated graphs, run by both runtimes on emulated cores of both kinds.

Resumable: what was found is kept in the state folder, a line for every 25 graphs, under the digest of the code.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks._device_runs import Ran, Run, Worker
from benchmarks._remembered import code, remembered
from benchmarks._sparse_cases import Case, case
from pipeline.errors import UserError
from pipeline.locate import read_target
from pipeline.measurement.agreement import compare
from pipeline.sparse_tflite import runtimes
from pipeline.sparse_tflite.decide import DIRECT
from pipeline.sparse_tflite.lint import lint
from pipeline.sparse_tflite.quantum import output_quantum
from pipeline.sparse_tflite.rewrites import rewrite
from pipeline.sparse_tflite.suited import make_suited
from targets import emulation
from targets.cores import Core

GRAPHS, BATCH = 500, 25
DEVICES = ("virtual-rpi4", "virtual-rpi5")
RUNTIMES = ("tflite-runtime", "ai-edge-litert")
OURS = ("suited", "rewritten")
NOT_FINITE = 99.0
# What lint said of TensorFlow's own sparse file, by what came of it.
SAID = {"would be wrong": "wrong", "does not load": "no load", "damaged": "damaged", "": "well"}


def run() -> list[str]:
    """Print the table; returns the goals that were missed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    made_by = code("benchmarks/sparse_right.py", "benchmarks/_device_worker.py", "pipeline/sparse_tflite")
    found = []
    for first in range(0, GRAPHS, BATCH):
        seeds = range(first, first + BATCH)
        found += remembered("sparse_right", f"{made_by} {first}", lambda s=seeds: {"graphs": batch(s)})[
            "graphs"
        ]
    _print(found)
    return [missed for each in found for missed in each["missed"]]


def batch(seeds: Sequence[int]) -> list[dict[str, Any]]:
    """What came of each graph on each device and runtime; `missed` holds what was not as it should be."""
    cases = [case(seed) for seed in seeds]
    found = []
    for device in DEVICES:
        for name in RUNTIMES:
            worker, core = device_worker(device, name)
            found += _on_one(cases, worker, runtimes.load(name), core)
    return found


@functools.cache
def device_worker(device: str, runtime: str) -> tuple[Worker, Core]:
    """The runtime on the device, which is brought up where it is down."""
    if emulation.status(device).state != "up":
        emulation.up(device)
    target = read_target(device, host=emulation.status(device).detail)
    assert target.core is not None
    return Worker(device, target, runtime), target.core


def _on_one(
    cases: Sequence[Case], worker: Worker, runtime: runtimes.Runtime, core: Core
) -> list[dict[str, Any]]:
    files: dict[str, bytes] = {}
    runs: list[Run] = []
    wanted: list[dict[str, int]] = []
    for each in cases:
        inputs = _kept(files, npy(each.inputs))
        written = _written(each, runtime, core)
        asked = {"off": Run(_kept(files, each.dense), inputs, delegate=False)}
        asked |= {name: Run(_kept(files, content), inputs) for name, content in written.items()}
        runs += [one for one in dict.fromkeys(asked.values()) if one not in runs]
        wanted.append({name: runs.index(one) for name, one in asked.items()})
    worker.send(files)
    ran = worker.run(runs)
    return [
        _judged(each, {name: ran[at] for name, at in asked.items()}, runtime, core)
        for each, asked in zip(cases, wanted, strict=True)
    ]


def npy(array: np.ndarray) -> bytes:
    """The array as a file of numpy's."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _kept(files: dict[str, bytes], content: bytes) -> str:
    name = hashlib.sha256(content).hexdigest()[:20]
    files[name] = content
    return name


@functools.lru_cache(maxsize=2 * BATCH)
def _written(each: Case, runtime: runtimes.Runtime, core: Core) -> dict[str, bytes]:
    """The dense file, what we make of it and of its rewritten twin, and TensorFlow's sparse one where there is one."""
    files = {
        "dense": each.dense,
        "suited": make_suited(each.dense, runtime, core)[0],
        "rewritten": make_suited(rewrite(each.dense)[0], runtime, core)[0],
        "theirs": each.theirs,
    }
    return {name: content for name, content in files.items() if content}


def _judged(each: Case, ran: Mapping[str, Ran], runtime: runtimes.Runtime, core: Core) -> dict[str, Any]:
    written = _written(each, runtime, core)
    where = f"graph {each.seed} ({each.precision}) on {runtime.title}, {core}"
    found = {name: _verdict(each, ran, name) for name in written}
    missed: list[str] = []
    said = {name: _said(content, runtime, core) for name, content in written.items()}
    for name in ("dense", *OURS):
        if said[name] == "would be wrong" or (found[name] != "right" and said[name] != "does not load"):
            missed.append(f"{where}: {name}: {found[name]}; lint said: {said[name] or 'well'}")
    if found.get("theirs", "right") != "right" and not said["theirs"]:
        missed.append(f"{where}: TensorFlow's sparse file: {found['theirs']}; lint said: well")
    direct = _direct(written["suited"], runtime, core)
    if found["suited"] == "right" and ran["suited"].operators.count("FULLY_CONNECTED") < direct:
        missed.append(f"{where}: {direct} FULLY_CONNECTED run sparse by lint, XNNPACK took some")
    return {
        "seed": each.seed,
        "where": f"{runtime.title}, {core}",
        "precision": each.precision,
        "found": found,
        "said": said,
        "sparse": [name for name in OURS if written[name] != each.dense],
        "runs": sum(_runs_sparse(written[name], runtime, core) for name in OURS),
        "missed": missed,
    }


def _verdict(each: Case, ran: Mapping[str, Ran], name: str) -> str:
    """`right` where it answers as the dense file does without XNNPACK, or by XNNPACK's own dense kernels."""
    got = ran[name]
    if got.error:
        return f"no load: {got.error[-200:]}"
    worst, quantum = [], output_quantum(each.dense, "dense")
    for reference in (ran["off"], ran["dense"]):
        if reference.error or (name == "dense" and reference is got):
            continue
        agreements = [
            compare(wanted, given, each.precision, quantum)
            for wanted, given in zip(reference.outputs, got.outputs, strict=True)
        ]
        if all(one.agrees for one in agreements):
            return "right"
        differences = [one.greatest_difference for one in agreements]
        worst.append(max(NOT_FINITE if each is None else each for each in differences))
    if name == "dense" and each.precision in ("dynamic_range", "int8"):
        # Two sets of kernels round differently; which of them rounds well is not the question here.
        return "right" if worst and worst[0] < 0.2 else f"wrong: {worst}"
    return f"wrong by {min(worst):.2g}" if worst else "no reference"


def _said(content: bytes, runtime: runtimes.Runtime, core: Core) -> str:
    """The worst that lint says of a file; empty: that all is well."""
    try:
        outcomes = {each.outcome for each in lint(content, "file", runtime, core).bad}
    except UserError:
        return "damaged"
    return next((each for each in ("does not load", "would be wrong") if each in outcomes), "")


def _direct(content: bytes, runtime: runtimes.Runtime, core: Core) -> int:
    """How many operators are read sparse as they are stored."""
    findings = lint(content, "file", runtime, core).graphs[0]
    return sum(each.encoding in DIRECT for each in findings)


def _runs_sparse(content: bytes, runtime: runtimes.Runtime, core: Core) -> int:
    return sum(each.outcome == "runs sparse" for each in lint(content, "file", runtime, core).graphs[0])


def _print(found: Sequence[Mapping[str, Any]]) -> None:
    places = sorted({each["where"] for each in found})
    table = Table("", *places, title=f"{len({each['seed'] for each in found})} generated graphs")
    counted = {where: [each for each in found if each["where"] == where] for where in places}
    for title, count in _rows().items():
        table.add_row(title, *(str(sum(map(count, counted[where]))) for where in places))
    for said, words in SAID.items():
        for came in ("right", "wrong", "no load"):
            counts = [
                Counter(
                    (each["said"].get("theirs"), _short(each["found"].get("theirs", "")))
                    for each in counted[where]
                )
                for where in places
            ]
            table.add_row(
                f"TensorFlow's: lint said {words}, was {came}", *(str(each[said, came]) for each in counts)
            )
    Console(width=140).print(table)


def _rows() -> dict[str, Callable[[Mapping[str, Any]], int]]:
    return {
        "files of ours with sparse weights": lambda each: len(each["sparse"]),
        "operators of them that run sparse": lambda each: each["runs"],
        "silently wrong, or not loading": lambda each: len(each["missed"]),
        "dense file refused by lint, and by the runtime": lambda each: (
            each["said"]["dense"] == "does not load"
        ),
    }


def _short(found: str) -> str:
    return next((each for each in ("right", "wrong", "no load") if found.startswith(each)), "")

"""Variants of a network side by side on a device, by the way that every deploy takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline import commands, locate
from pipeline.artifacts import Artifact
from pipeline.errors import UserError
from pipeline.measurement.agreement import compare_all
from pipeline.measurement.measurement import Measurement
from pipeline.measurement.statistics import ratio, summarise
from pipeline.models.data import store_samples
from pipeline.models.samples import at_key, by_name
from pipeline.plan import MeasureSection
from pipeline.progress import Progress
from pipeline.sparse_tflite.random_inputs import random_inputs
from pipeline.stages import deploy, judge, measure
from targets import emulation
from targets.device import open_device
from targets.errors import TargetError
from targets.target import TargetBase

DENSE = "dense"
SAMPLES = 2


def reach(name: str, runtime: str) -> TargetBase:
    """The target with that runtime; an emulated one is started where it is not up."""
    target = locate.read_target(name).model_copy(update={"runtime": runtime})
    if target.emulated:
        emulation.up(name, port=getattr(target, target.transport).port)
    return target


def beside_dense(
    name: str, target: TargetBase, files: Mapping[str, bytes], repetitions: int
) -> dict[str, dict[str, Any]]:
    """Of each variant, the one named `DENSE` among them: bytes, median latency and memory, and how it compares with
    the dense one, measured in turns in one session; or in words why it did not run.

    What does not load ends a session: then each is measured beside the dense one alone.
    """
    try:
        return _session(name, target, files, repetitions)
    except (TargetError, UserError) as error:
        others = [variant for variant in files if variant != DENSE]
        if not others:
            raise
        if len(others) == 1:
            failed = {"bytes": len(files[others[0]]), "failed": str(error).splitlines()[0]}
            return beside_dense(name, target, {DENSE: files[DENSE]}, repetitions) | {others[0]: failed}
        return {
            variant: found
            for other in others
            for variant, found in beside_dense(
                name, target, {DENSE: files[DENSE], other: files[other]}, repetitions
            ).items()
        }


def _session(
    name: str, target: TargetBase, files: Mapping[str, bytes], repetitions: int
) -> dict[str, dict[str, Any]]:
    options = MeasureSection(
        repetitions=repetitions,
        warmup_runs=1,
        warmup_seconds=0.05,
        max_warmup_seconds=0.05,
        min_samples=3,
        min_seconds=0.2,
        max_seconds=0.2,
        cold_starts=0,
        step_deadline_s=600,
    )
    say = Progress(quiet=True).line
    with commands.store().in_use() as store, open_device(name, target) as device:
        variants = {variant: store.put("tflite", content) for variant, content in files.items()}
        samples = random_inputs(files[DENSE], name)[:SAMPLES]
        inputs = at_key("inputs", store_samples("inputs", samples, store))
        assert inputs is not None
        deployed = deploy.run(device, variants, inputs, say)
        session = measure.run(options, device, deployed, say)
    return _compared(session, variants, judge.measurements_of(session, variants, target.emulated))


def _compared(
    session: measure.Session, variants: Mapping[str, Artifact], measured: Mapping[str, Measurement]
) -> dict[str, dict[str, Any]]:
    found = {}
    for variant, artifact in variants.items():
        summary = summarise(measured[variant])
        agreement = compare_all(by_name(session.outputs[DENSE]), by_name(session.outputs[variant]))
        found[variant] = {
            "bytes": artifact.path.stat().st_size,
            "p50_ms": summary.p50_ms.value,
            "peak_memory_bytes": summary.peak_memory_bytes,
            "faster": ratio(measured[DENSE], measured[variant]).model_dump(),
            "difference": agreement.greatest_difference,
            "agrees": agreement.agrees,
        }
    return found

"""What is done with one model file: pruned, converted, linted, rewritten, measured."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from pipeline import atomic, engine, locate
from pipeline.artifacts import Artifact, file_digest
from pipeline.commands import cache_of, store
from pipeline.errors import Disagreement, UserError
from pipeline.measurement.statistics import summarise
from pipeline.models.data import load_training_inputs, spread, store_samples
from pipeline.models.load import parse_source
from pipeline.models.ports import Port, input_ports
from pipeline.models.samples import Samples, at_key, by_name, in_order
from pipeline.plan import ConvertSection, MeasureSection, plan_model
from pipeline.progress import Progress
from pipeline.sparse_tflite import rewrites, runtimes
from pipeline.sparse_tflite.lint import LintReport
from pipeline.sparse_tflite.lint import lint as lint_file
from pipeline.sparse_tflite.random_inputs import random_inputs
from pipeline.stages import attempts
from pipeline.stages import deploy as deploy_stage
from pipeline.strict_yaml import read_values, suggest
from pipeline.suits import core_of, runtime_of, suit_of
from targets.cores import Core
from targets.device import open_device


def prune(
    model: Path, data: Path, out: Path, metric: str, settings: Sequence[str], progress: Progress
) -> dict[str, Any]:
    """Prune a model file with an .npz file into `out`; returns the stage's report."""
    _check_ending(out, ".keras")
    values = {
        "name": "prune",
        "model": {"source": str(model)},
        "data": {"source": str(data)},
        "metric": {"source": metric},
        "prune": {},
    }
    plan = read_values(values, plan_model(), overrides=settings, folder=Path(), name="edgepipe prune")
    if not plan.prune.prunes:
        raise UserError(
            "--method none: expected a method that removes something; edgepipe convert takes the model as it is"
        )
    with cache_of(plan.store.max_mebibytes) as cache:
        host = engine.run_host_stages(plan, Path(), cache, progress, last="prune")
        with atomic.new_file(out) as temporary:
            shutil.copyfile(host.outputs["prune"]["model"].path, temporary)
    return host.report("prune")


@dataclass(frozen=True)
class Conversion:
    """What to convert to: as in a plan's section `convert`, `data` being an .npz of representative inputs."""

    precision: str = "float32"
    io: str = "float"
    rewrites: str = "auto"
    data: Path | None = None


def convert(model: Path, out: Path, target: str, wanted: Conversion, progress: Progress) -> dict[str, Any]:
    """Convert a model file into `out`, its weights stored as they suit the target; compared with its dense twin on
    random inputs. Returns encodings and size."""
    from pipeline.stages.encode import make_twins

    _check_ending(out, ".tflite")
    section = _convert_section(wanted)
    found = locate.read_target(target)
    with progress.step("convert"):
        dense = _dense_file(model, section, wanted.data)
        samples, suit = random_inputs(dense, str(model)), suit_of(target, found)
        twins = make_twins(dense, samples, section.precision, suit, section.rewrites)
    atomic.write(out, twins.sparse)
    return {"target": target, "dense_bytes": len(dense), "bytes": len(twins.sparse), **twins.report}


def lint(model: Path, target: str, runtime: str, core: str) -> LintReport:
    """What a .tflite file does on a target, or on the runtime and core given in place of the target's."""
    content, found = _read_tflite(model), locate.read_target(target)
    runtime_name, kind = runtime or runtime_of(target, found), core or core_of(target, found)
    problems = []
    if kind not in get_args(Core):
        problems.append(f"--core {kind}: no such kind of core; {suggest(kind, get_args(Core))}")
    try:
        rules = runtimes.load(runtime_name)
    except ValueError as error:
        problems.append(f"--runtime: {error}")
    if problems:
        raise UserError(*problems)
    return lint_file(content, str(model), rules, cast(Core, kind))


def rewrite(model: Path, out: Path, only: Sequence[str], progress: Progress) -> dict[str, Any]:
    """Write `out`, the model with exact rewrites; compared with the model on random inputs. Returns what was done."""
    from pipeline.measurement.agreement import compare_all
    from pipeline.sparse_tflite.host_interpreter import answers_on_host

    _check_ending(out, ".tflite")
    content = _read_tflite(model)
    rewritten, done = rewrites.rewrite(content, only or None, str(model))
    with progress.step("compare"):
        samples = random_inputs(content, str(model))
        before, after = map(by_name, answers_on_host([content, rewritten], samples))
        agreement = compare_all(before, after)
    if not agreement.agrees:
        raise Disagreement(f"rewrite: nothing was written: on this machine {agreement.sentence}")
    atomic.write(out, rewritten)
    return {
        "rewrites": done,
        "bytes_before": len(content),
        "bytes": len(rewritten),
        "agreement": agreement.model_dump(),
    }


def measure(
    model: Path, target: str, host: str, settings: Sequence[str], progress: Progress
) -> dict[str, Any]:
    """Measure one .tflite file on a device with random inputs; returns summary, validity and the measurement."""
    options = read_values({}, MeasureSection, overrides=settings, folder=Path(), name="edgepipe measure")
    found = locate.read_target(target, host=host)
    samples = random_inputs(_read_tflite(model), str(model))
    variants = {"model": Artifact(file_digest(model), "tflite", model)}
    with store().in_use() as cache, open_device(target, found) as device:
        inputs = at_key("inputs", store_samples("inputs", samples, cache))
        assert inputs is not None
        with progress.step(f"{target}: deploy") as say:
            deployed = deploy_stage.run(device, variants, inputs, say)
        with progress.step(f"{target}: measure") as say:
            taken = list(attempts.run(options, device, deployed, variants, say))
    last, valid, measurement = taken[-1], taken[-1].validity, taken[-1].measurements["model"]
    return {
        "target": target,
        "emulated": found.emulated,
        "runtime": deployed.runtime,
        "validity": valid.model_dump(mode="json"),
        "summary": None if valid.state == "invalid" else summarise(measurement).model_dump(mode="json"),
        "environment": last.session.environment,
        "operators": last.session.operators["model"].model_dump(mode="json"),
        "measurement": measurement.model_dump(mode="json"),
        "invalid_sessions": [
            {
                "validity": each.validity.model_dump(mode="json"),
                "environment": each.session.environment,
                "measurement": each.measurements["model"].model_dump(mode="json"),
            }
            for each in taken
            if each.repeated
        ],
    }


def _convert_section(wanted: Conversion) -> ConvertSection:
    names = wanted.rewrites.split(",")
    chosen = wanted.rewrites if wanted.rewrites in ("auto", "none") else [name.strip() for name in names]
    values = {"precision": wanted.precision, "io": wanted.io, "rewrites": chosen}
    return read_values(values, ConvertSection, overrides=(), folder=Path(), name="edgepipe convert")


def _dense_file(model: Path, section: ConvertSection, inputs: Path | None) -> bytes:
    from pipeline.models.load import load_model
    from pipeline.sparse_tflite.keras_conversion import to_tflite

    if model.suffix.lower() == ".tflite":
        if section.precision != "float32":
            raise UserError(f"--precision {section.precision}: a .tflite file stays in the numbers it has")
        return _read_tflite(model)
    try:
        source = parse_source(str(model), Path())
    except ValueError as error:
        raise UserError(f"{model}: {error}") from None
    if section.precision == "int8" and inputs is None:
        raise UserError("--precision int8: needs --data, an .npz file with the inputs x_train")
    training = load_training_inputs(inputs) if section.precision == "int8" and inputs is not None else None
    loaded = load_model(source.artifact(), source.artifact())
    representative = None
    if training is not None:
        _check_inputs(training, input_ports(loaded), f"--data {inputs}")
        representative = training[spread(len(training), section.representative_samples)]
    return to_tflite(loaded, section.precision, representative, section.io)


def _check_inputs(samples: Samples, ports: Sequence[Port], where: str) -> None:
    """Raise `UserError` where the model does not take these samples."""
    try:
        arrays = in_order(samples, [port.name for port in ports])
    except ValueError as error:
        raise UserError(f"{where}: x_train: {error}") from None
    for port, array in zip(ports, arrays, strict=True):
        if None not in port.shape and array.shape[1:] != tuple(port.shape):
            raise UserError(
                f"{where}: the model takes samples of {tuple(port.shape)} at {port.name}, received {array.shape[1:]}"
            )


def _read_tflite(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _check_ending(path: Path, ending: str) -> None:
    if path.suffix != ending:
        raise UserError(f"--out {path}: expected a {ending} file")

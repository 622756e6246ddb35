"""What each command does, as a function of values; the command line only reads and shows."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from pipeline import atomic, deployment, engine, locate
from pipeline.artifacts import Artifact, Store, file_digest
from pipeline.errors import Disagreement, UserError
from pipeline.measurement.statistics import summarise
from pipeline.models.data import load_training_inputs, spread, store_samples
from pipeline.models.load import parse_source
from pipeline.models.ports import Port, input_ports
from pipeline.models.samples import Samples, at_key, by_name, in_order
from pipeline.plan import ConvertSection, MeasureSection, PlanBase, plan_model
from pipeline.progress import Progress
from pipeline.result import Result
from pipeline.sparse_tflite import rewrites, runtimes
from pipeline.sparse_tflite.lint import LintReport
from pipeline.sparse_tflite.lint import lint as lint_file
from pipeline.sparse_tflite.random_inputs import random_inputs
from pipeline.sparse_tflite.suited import Suit
from pipeline.stages import attempts
from pipeline.stages import deploy as deploy_stage
from pipeline.strict_yaml import read_values, suggest
from targets.cores import Core, of_this_machine
from targets.device import open_device
from targets.errors import TargetError
from targets.places import state_folder
from targets.probe import probe
from targets.provisioning import runtime_of as runtime_on
from targets.target import TargetBase, connect, python_of


def store() -> Store:
    """The machine's one store."""
    return Store(state_folder() / "store")


def read_all(
    plan: str, settings: Sequence[str], names: Sequence[str], host: str
) -> tuple[PlanBase, Path, dict[str, TargetBase]]:
    """Plan and targets; every mistake in any of them is told at once, before any work."""
    problems: list[str] = []
    found: tuple[PlanBase, Path] | None = None
    targets: dict[str, TargetBase] = {}
    try:
        found = locate.read_plan(plan, settings)
    except UserError as error:
        problems += error.problems
    if not names:
        problems.append("--target: expected a name, received nothing; for example --target local")
    if host and len(names) > 1:
        problems.append(f"--host {host}: expected one target, received {len(names)}")
    for name in names:
        key = Path(name).stem
        if key in targets:
            problems.append(f"--target {name}: there is a target {key} in the list already")
        try:
            targets[key] = locate.read_target(name, found[1] if found else Path(plan).parent, host)
        except UserError as error:
            problems += error.problems
    if problems or found is None:
        raise UserError(*problems)
    return found[0], found[1], targets


def dry_run(plan: PlanBase, folder: Path, targets: Mapping[str, TargetBase]) -> dict[str, Any]:
    """What a deploy would do, step by step."""
    with store().in_use() as cache:
        suits = {name: _suit(name, target) for name, target in targets.items()}
        known = [suit for suit in suits.values() if suit is not None and suit[1] is not None]
        stages = engine.what_would_run(plan, folder, cache, known)
    steps = [{"stage": stage, "from": source} for stage, source in stages]
    steps += [
        {"stage": f"{name}: encode", "from": "anew, or from cache: the device tells its runtime and core"}
        for name, suit in suits.items()
        if suit not in known
    ]
    steps += [
        {"stage": f"{target}: {stage}", "from": "anew"}
        for target in targets
        for stage in ("deploy", "measure", "judge", "install")
    ]
    return {"plan": plan.model_dump(mode="json"), "steps": [*steps, {"stage": "report", "from": "anew"}]}


def deploy(plan: PlanBase, folder: Path, targets: dict[str, TargetBase], progress: Progress) -> Result:
    """One deploy into `runs/` of the working folder, and into the history; the cache is brought under its cap at the
    end.
    """
    written: list[Result] = []
    try:
        with _cache(plan) as cache:
            return deployment.run(plan, folder, targets, cache, Path("runs"), progress, written.append)
    finally:
        if written:
            _enter_history(written[-1], progress)


def _enter_history(found: Result, progress: Progress) -> None:
    """The run is written: that its figures cannot be in the history, too, takes nothing from it."""
    from pipeline.history.record import record

    try:
        record(found)
    except UserError as error:
        progress.line(f"not in the history: {error}\nlater: edgepipe history add runs/{found.id}")


def _cache(plan: PlanBase) -> contextlib.AbstractContextManager[Store]:
    return cache_of(plan.store.max_mebibytes)


@contextlib.contextmanager
def cache_of(max_mebibytes: int) -> Iterator[Store]:
    """The store, held against eviction; brought under its cap in the end."""
    cache = store()
    try:
        with cache.in_use():
            yield cache
    finally:
        cache.shrink(max_mebibytes << 20)


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
    with _cache(plan) as cache:
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
        samples, suit = random_inputs(dense, str(model)), _suit(target, found)
        twins = make_twins(dense, samples, section.precision, suit, section.rewrites)
    atomic.write(out, twins.sparse)
    return {"target": target, "dense_bytes": len(dense), "bytes": len(twins.sparse), **twins.report}


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


def _suit(name: str, target: TargetBase) -> Suit | None:
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


def _read_tflite(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def status(name: str, target: TargetBase) -> dict[str, Any]:
    """What is installed on a device, and whether the file there still has the hash its manifest says."""
    with open_device(name, target) as device:
        found = device.ask("status", install_path=target.install_path)[-1]
    return {"target": name} | {key: found[key] for key in ("installed", "manifest", "model_ok")}


def rollback(name: str, target: TargetBase) -> dict[str, Any]:
    """Switch the version before the installed one in again."""
    with open_device(name, target) as device:
        event = device.rollback()
    return {"target": name, "manifest": event["manifest"], "after_install": event["restart"]}


def clean(name: str, target: TargetBase, *, installed: bool) -> dict[str, Any]:
    """Remove from a device all that is ours, with `installed` the installed model, too."""
    with open_device(name, target) as device:
        return {"target": name, "removed": device.clean(installed=installed)}


def _check_ending(path: Path, ending: str) -> None:
    if path.suffix != ending:
        raise UserError(f"--out {path}: expected a {ending} file")

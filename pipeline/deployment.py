"""One deploy: the host's stages, then every target from connection to verdict, into one result document."""

from __future__ import annotations

import contextlib
import functools
import re
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import engine
from pipeline.artifacts import Store
from pipeline.at_once import AtOnce
from pipeline.engine import HostRun
from pipeline.errors import Disagreement, ExitCode, UserError
from pipeline.one_target import Job, failed, now, run_target, settings
from pipeline.plan import PlanBase
from pipeline.progress import Progress
from pipeline.result import ModelResult, Result, TargetResult
from pipeline.sparse_tflite import runtimes
from pipeline.sparse_tflite.suited import Suit
from pipeline.stages import report
from targets.errors import TargetError
from targets.probe import Probe
from targets.provisioning import runtime_of
from targets.questions import somebody_is_there
from targets.target import TargetBase
from targets.user_keys import passphrases_were_missing

TOOLS = ("edgepipe", "tensorflow", "keras", "numpy")


def run(
    plan: PlanBase,
    folder: Path,
    targets: Mapping[str, TargetBase],
    store: Store,
    runs: Path,
    progress: Progress,
    on_written: Callable[[Result], None] = lambda found: None,
) -> Result:
    """Deploy to every target, all at once, with weights stored as they suit its runtime and core.
    The result is written after each target, so that none is lost to what comes after, and `on_written` is shown it.

    A target that cannot be reached is known before any work begins; when none can, no work begins. Raises
    `UserError`; what a device does wrong is in the result.
    """
    # A folder that takes no result is better known now than after measuring.
    runs.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=runs).close()
    found = new_result(plan)
    suits, unreachable = check_reachable(targets, progress)
    found = found.model_copy(update={"targets": unreachable})

    def finish(found: Result) -> Result:
        found = _finish(found, runs)
        on_written(found)
        return found

    if not suits:
        return finish(found)
    host = engine.run_host_stages(plan, folder, store, progress)
    found = found.model_copy(update={"stages": tuple(host.records), "model": model_result(plan, host)})
    jobs = [Job(name, targets[name], plan, host, suit) for name, suit in suits.items()]
    # Before any device is sent anything: a refusal is better known now than after others were measured.
    refused = _encode(jobs, store, progress)
    found = found.model_copy(
        update={"targets": {**unreachable, **refused}, "stages": tuple(host.records)},
    )
    if len(refused) == len(jobs):
        return finish(found)
    return _run_all(found, [job for job in jobs if job.name not in refused], list(targets), finish, progress)


def _run_all(
    found: Result,
    jobs: Sequence[Job],
    order: Sequence[str],
    finish: Callable[[Result], Result],
    progress: Progress,
) -> Result:
    """Run the targets that can be, and write the run after each; what was measured is written whatever ends it."""
    at_once = AtOnce()
    known: dict[str, dict[str, Any]] = {job.name: {} for job in jobs}
    ended = dict(found.targets)

    def run_one(job: Job) -> None:
        ended[job.name] = run_target(job, found.id, at_once, progress, known[job.name])

    def write() -> Result:
        in_order = {name: ended[name] for name in order if name in ended}
        return finish(found.model_copy(update={"targets": in_order}))

    try:
        work = {job.name: functools.partial(run_one, job) for job in jobs}
        with contextlib.closing(at_once.run(work)) as results:
            for _ in results:
                write()
    except BaseException as error:
        measured = [job for job in jobs if known[job.name].get("measurements")]
        why = f"the run was ended by {type(error).__name__}"
        for job in measured:
            ended.setdefault(job.name, failed(job.target, why, ExitCode.BUG, known[job.name]))
        if measured:
            write()
        raise
    return write()


def _encode(jobs: Sequence[Job], store: Store, progress: Progress) -> dict[str, TargetResult]:
    """Make the files of every target; the failed results of those that cannot have any."""
    refused = {}
    for job in jobs:
        try:
            engine.encode(job.plan, job.host, store, progress, job.suit)
        except (Disagreement, UserError) as error:
            code = ExitCode.USER if isinstance(error, UserError) else ExitCode.GATE
            refused[job.name] = failed(job.target, str(error), code, {"settings": settings(job.target)})
    return refused


def new_result(plan: PlanBase) -> Result:
    """A run that begins now."""
    created = now()
    return Result(
        id=f"{re.sub('[-:Z]', '', created).replace('T', '-')}-{plan.name}-{uuid.uuid4().hex[:6]}",
        created=created,
        version=engine.tool_versions(("edgepipe",))["edgepipe"],
        plan=plan.model_dump(mode="json"),
        host=engine.tool_versions(TOOLS),
        stages=(),
        model=None,
        targets={},
        exit_code=0,
    )


def _finish(found: Result, runs: Path) -> Result:
    """Settle the exit code and write the run: missing evidence weighs more than a failed gate."""
    codes = [each.exit_code for each in found.targets.values()]
    weights = (ExitCode.BUG, ExitCode.DEVICE, ExitCode.USER, ExitCode.GATE)
    code = next((each for each in weights if each in codes), ExitCode.PASS)
    found = found.model_copy(update={"exit_code": int(code)})
    report.run(found, runs)
    return found


def check_reachable(
    targets: Mapping[str, TargetBase], progress: Progress
) -> tuple[dict[str, Suit | None], dict[str, TargetResult]]:
    """What the files of each target that answers are to suit (None: all runtimes), and the results of the others."""
    at_once = AtOnce()
    work = {
        name: functools.partial(_try, name, target, at_once, progress) for name, target in targets.items()
    }
    with contextlib.closing(at_once.run(work)) as answers:
        tried = dict(answers)
    if passphrases_were_missing() and somebody_is_there():
        # Again, for questions are asked by nobody but the main thread.
        tried |= {name: work[name]() for name, answer in tried.items() if isinstance(answer, TargetError)}
    suits: dict[str, Suit | None] = {}
    unreachable: dict[str, TargetResult] = {}
    for name, target in targets.items():
        answer = tried[name]
        if isinstance(answer, Exception):
            code = ExitCode.DEVICE if isinstance(answer, TargetError) else ExitCode.USER
            unreachable[name] = failed(target, str(answer), code, {"settings": settings(target)})
        else:
            suits[name] = answer
    return suits, unreachable


def _try(
    name: str, target: TargetBase, at_once: AtOnce, progress: Progress
) -> Suit | TargetError | UserError | None:
    """What a device's files are to suit, or why it cannot be had."""
    try:
        with progress.step(f"{name}: connect") as say, at_once.device(name, target) as device:
            say(device.probe.sentence)
            return suit_of(name, target, device.probe)
    except (TargetError, UserError) as error:
        return error


def suit_of(name: str, target: TargetBase, probe: Probe) -> Suit | None:
    """The runtime and the kind of cores of a device; None for these where neither it nor the target's file tells, and
    for both where the runtime is one whose rules nobody has written down.

    Raises `UserError` where the target's file says otherwise than the device.
    """
    runtime, core = runtime_of(target, probe), target.core or probe.core
    if probe.core not in (core, None):
        raise UserError(
            f"{name}: core: the target's file says {core}, the device's processor is {probe.core}; "
            "weights would be stored for the wrong kernels; correct the file, or write core: null"
        )
    return (runtime, core) if has_rules(runtime) else None


def has_rules(runtime: str) -> bool:
    """Whether it is written down how a runtime reads sparse weights; files for one without are as all runtimes read
    them.
    """
    try:
        runtimes.load(runtime)
    except ValueError:
        return False
    return True


def model_result(plan: PlanBase, host: HostRun) -> ModelResult:
    """The model on the host, before and after."""
    pruned = host.report("prune")
    return ModelResult(
        metric=plan.metric.title,
        direction=plan.metric.better,
        layers=tuple(pruned.pop("decisions")),
        **pruned,
    )

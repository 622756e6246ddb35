"""The cached stages in order, and their keys: the only place that knows what each of them is given."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from pipeline.artifacts import Artifact, Store, canonical_json
from pipeline.errors import DataMisfit, UserError
from pipeline.models import sources
from pipeline.models.load import parse_source
from pipeline.plan import PlanBase
from pipeline.progress import Progress
from pipeline.result import StageRecord
from pipeline.source_digest import source_digest
from pipeline.sparse_tflite.suited import Suit

OWN_PACKAGES = ("pipeline", "targets", "device_agents")
CACHED_STAGES = ("data", "train", "prune", "convert")


@dataclass(frozen=True)
class UserFiles:
    """The plan's own files as artifacts; None where the plan names something built in."""

    model: Artifact
    data: Artifact | None
    metric: Artifact | None

    @classmethod
    def of(cls, plan: PlanBase, folder: Path) -> UserFiles:
        """Digest the files that the plan names; its paths are relative to `folder`."""
        data = None if plan.data.source.startswith("sklearn:") else plan.data.source
        metric = plan.metric.source if ":" in plan.metric.source else None
        return cls(
            model=parse_source(plan.model.source, folder).artifact(),
            data=sources.parse(data, folder, (".npz",)).artifact() if data else None,
            metric=sources.parse(metric, folder, ()).artifact() if metric else None,
        )


@dataclass
class HostRun:
    """What the cached stages of a run made, by stage and output, and the record of each."""

    files: UserFiles
    outputs: dict[str, dict[str, Artifact]] = field(default_factory=dict)
    records: list[StageRecord] = field(default_factory=list)
    encoded: dict[Suit | None, dict[str, Artifact]] = field(default_factory=dict)

    def report(self, stage: str) -> dict[str, Any]:
        """The report that a stage left."""
        report: dict[str, Any] = self.outputs[stage]["report"].read_json()
        return report

    def variants(self, suit: Suit | None) -> dict[str, Artifact]:
        """The files that are measured where weights are stored to suit a runtime and a core."""
        encoded = self.encoded[suit]
        return {
            "baseline": self.outputs["convert"]["baseline"],
            "dense": encoded["dense"],
            "sparse": encoded["sparse"],
        }


def run_host_stages(
    plan: PlanBase,
    folder: Path,
    store: Store,
    progress: Progress,
    last: str = CACHED_STAGES[-1],
) -> HostRun:
    """Data, train, prune and convert, up to `last`, each from the cache where its key is known. Raises `UserError`."""
    run = HostRun(UserFiles.of(plan, folder))

    def still_the_same() -> None:
        try:
            same = UserFiles.of(plan, folder) == run.files
        except (ValueError, OSError):
            same = False
        if not same:
            raise UserError("a file that the plan names was changed while the run read it; run again")

    for stage in CACHED_STAGES[: CACHED_STAGES.index(last) + 1]:
        inputs = _inputs(stage, run.outputs, run.files)
        options = _module(stage).options(plan)
        try:
            run.outputs[stage], record = run_stage(stage, options, inputs, store, progress, still_the_same)
        except DataMisfit as error:
            raise UserError(f"data.source: {plan.data.source}: {error}") from error
        run.records.append(record)
    return run


def encode(plan: PlanBase, run: HostRun, store: Store, progress: Progress, suit: Suit | None) -> None:
    """Add to `run` the files that suit a runtime and a core, or without `suit` all of them, unless they are there.

    Raises `UserError`, `Disagreement`.
    """
    if suit in run.encoded:
        return
    options, inputs = _encode_options(plan, suit), _inputs("encode", run.outputs, run.files)
    title = "encode" if suit is None else f"encode for {suit[0]}" + (f" on {suit[1]}" if suit[1] else "")
    run.encoded[suit], record = run_stage(
        "encode", options, inputs, store, progress, lambda: None, title=title
    )
    run.records.append(record)


def _encode_options(plan: PlanBase, suit: Suit | None) -> BaseModel:
    options: BaseModel = _module("encode").options(plan)
    return options.model_copy(update={"suit": suit})


def what_would_run(
    plan: PlanBase, folder: Path, store: Store, suits: Sequence[Suit | None] = ()
) -> list[tuple[str, str]]:
    """Each cached stage, and where its outputs would come from; after the first that is made anew nobody knows."""
    files = UserFiles.of(plan, folder)
    outputs: dict[str, dict[str, Artifact]] = {}
    todo = [(stage, _module(stage).options(plan)) for stage in CACHED_STAGES]
    todo += [("encode", _encode_options(plan, suit)) for suit in dict.fromkeys(suits)]
    cached = 0
    for stage, options in todo:
        made = store.find(stage, _key(_provenance(stage, options, _inputs(stage, outputs, files))))
        if made is None:
            break
        outputs[stage] = made
        cached += 1
    found = [(stage, "cache") for stage, _ in todo[:cached]]
    for stage, _ in todo[cached:]:
        unsure = (
            f"anew, or from cache where {found[-1][0]} makes what is known" if len(found) > cached else "anew"
        )
        found.append((stage, unsure))
    return found


def run_stage(
    stage: str,
    options: BaseModel,
    inputs: Mapping[str, Artifact],
    store: Store,
    progress: Progress,
    check_inputs: Callable[[], None],
    title: str = "",
) -> tuple[dict[str, Artifact], StageRecord]:
    """One stage: its outputs from the store, or made and remembered; `title` is what people read of it.

    `check_inputs` raises when a file changed under the stage's hands: what was made then is not remembered.
    """
    started = time.monotonic()
    provenance = _provenance(stage, options, inputs)
    key = _key(provenance)
    outputs = store.find(stage, key)
    cached = outputs is not None
    if outputs is None:
        with progress.step(title or stage) as say:
            outputs = _module(stage).run(options, inputs, store, say)
        check_inputs()
        store.remember(stage, key, outputs, provenance)
    else:
        progress.line(f"{title or stage}: from cache")
    record = StageRecord(stage=stage, key=key, cached=cached, seconds=round(time.monotonic() - started, 3))
    return outputs, record


def _inputs(
    stage: str, outputs: Mapping[str, Mapping[str, Artifact]], files: UserFiles
) -> dict[str, Artifact]:
    """What each stage is given. A model written in Python goes along wherever its own layers must be known."""
    source = files.model if files.model.kind == "source" else None
    given: dict[str, Artifact | None]
    if stage == "data":
        given = {"data": files.data}
    elif stage == "train":
        given = {"model": files.model, "dataset": outputs["data"]["dataset"]}
    elif stage == "prune":
        given = {
            "model": outputs["train"]["model"],
            "dataset": outputs["data"]["dataset"],
            "source": source,
            "metric": files.metric,
        }
    elif stage == "encode":
        given = {**outputs["convert"]}
    else:
        given = {
            "baseline": outputs["train"]["model"],
            "pruned": outputs["prune"]["model"],
            "dataset": outputs["data"]["dataset"],
            "source": source,
        }
        given |= {name: artifact for name, artifact in outputs["data"].items() if name.startswith("inputs")}
    return {name: artifact for name, artifact in given.items() if artifact is not None}


def _module(stage: str) -> ModuleType:
    return importlib.import_module(f"pipeline.stages.{stage}")


def _provenance(stage: str, options: BaseModel, inputs: Mapping[str, Artifact]) -> dict[str, Any]:
    module = _module(stage)
    own = [Path(str(module.__file__)), *getattr(module, "loaded_by_name", lambda _: [])(options)]
    return {
        "stage": stage,
        "source": _source_of(tuple(own)),
        "options": options.model_dump(mode="json"),
        "inputs": {name: artifact.digest for name, artifact in inputs.items()},
        "tools": tool_versions(module.TOOLS),
    }


def _key(provenance: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(provenance)).hexdigest()


@functools.cache
def _source_of(paths: tuple[Path, ...]) -> str:
    return source_digest(paths, Path(__file__).absolute().parent.parent, OWN_PACKAGES)


def tool_versions(names: tuple[str, ...]) -> dict[str, str]:
    """The versions of installed packages, read from their metadata: nothing is imported."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    return found

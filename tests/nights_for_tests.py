"""A small farm over many nights, for tests: recorded and judged by the product itself; every time in it is made up."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.farm import night as nights
from pipeline.farm.case import METRICS, VARIANTS, Case, Session
from pipeline.farm.judge import judge
from pipeline.farm.night import JobVariant, Night, NightJob
from pipeline.farm.past import Wanted, past
from pipeline.history import series
from pipeline.history.database import reading
from pipeline.history.record import record
from pipeline.measurement.statistics import summarise
from pipeline.measurement.validity import Validity
from pipeline.result import Result, TargetResult, VariantFile, save
from tests.results_for_tests import AGREEMENT, make_environment, make_measurement, make_memory, make_result

DIGESTS = {"candidate": "c" * 64, "baseline": "b" * 64, "again": "b" * 64, "canary": "a" * 64}
BYTES = {"candidate": 121_304, "baseline": 412_856, "again": 412_856, "canary": 98_304}
TEMPLATE = make_result(repetitions=2, samples=3)
COUNT = 26
SWITCHED_OFF = "nothing answers at 10.0.0.9 port 22"


@dataclass(frozen=True)
class Life:
    """A plan on a target over the nights: by how much (log) the candidate and the device are slower in each."""

    plan: str
    target: str
    emulated: bool = False
    slower: Callable[[int], float] = lambda night: 0.0
    device: Callable[[int], float] = lambda night: 0.0
    kernel: Callable[[int], str] = lambda night: "6.6.31"
    noise: float = 0.004
    ms: float = 8.0
    metric: float = 0.971
    # What the accepted baseline takes longer than the candidate did at first.
    ahead: float = 0.0
    gone: Callable[[int], bool] = lambda night: False


FARM = (
    Life("digits", "rpi4", slower=lambda night: 0.06 * (night == COUNT - 1)),
    Life("digits", "rpi5", ms=3.1, device=lambda night: 0.05 * (night >= 19)),
    Life("keywords", "rpi4", ms=21.0, metric=0.934, ahead=0.04, slower=lambda night: 0.012 * (night >= 16)),
    Life("keywords", "rpi5", ms=9.4, metric=0.934, kernel=lambda night: "6.6.31" if night < 10 else "6.12.9"),
    Life("digits", "virtual-rpi4", emulated=True, ms=95.0),
    Life("digits", "zero2w", ms=31.0, noise=0.3),
    Life("digits", "pixel", ms=2.2, gone=lambda night: night >= COUNT - 1),
)


def started(night: int) -> str:
    """When a night began."""
    day = datetime.date(2025, 1, 1) + datetime.timedelta(night)
    return f"{day.isoformat()}T02:00:00Z"


def run_of(life: Life, night: int, again: int = 0) -> Result:
    """What one session of that night found."""
    seed = [night, again, *life.plan.encode(), *life.target.encode()]
    random = np.random.default_rng(seed)
    found = {}
    between = {variant: random.normal(0, 0.001) for variant in VARIANTS}
    for variant in VARIANTS:
        scale = {"canary": 0.3}.get(variant, 1.0)
        level = np.log(life.ms * 1e6 * scale) + life.device(night) + between[variant]
        level += life.slower(night) - life.ahead if variant == "candidate" else 0.0
        template = make_measurement("dense", life.emulated, 4, 3)
        repetitions = tuple(
            each.model_copy(
                update={
                    "samples_ns": (int(np.exp(level + random.normal(0, life.noise))),) * 3,
                    "memory": make_memory(BYTES[variant]),
                }
            )
            for each in template.repetitions
        )
        metric = {"canary": 0.88}.get(variant, life.metric)
        change = {
            "variant": variant,
            "digest": DIGESTS[variant],
            "repetitions": repetitions,
            "metric": metric,
        }
        found[variant] = template.model_copy(update=change)
    template_target = TEMPLATE.targets["rpi4"]
    assert template_target.encoded is not None
    environment = make_environment(life.emulated) | {
        "kernel": life.kernel(night),
        "temperatures_c": {"cpu-thermal": 41.0 + night % 7, "gpu-thermal": 40.0},
    }
    files = {name: VariantFile(digest=DIGESTS[name], bytes=BYTES[name]) for name in VARIANTS}
    target = TargetResult(
        emulated=life.emulated,
        transport="ssh",
        started=started(night),
        runtime="ai-edge-litert",
        encoded=template_target.encoded.model_copy(update={"variants": files}),
        environment={"before": environment, "after": environment},
        measurements=found,
        summaries={name: summarise(each) for name, each in found.items()},
        validity=Validity(state="valid", reasons=()),
        agreement=AGREEMENT,
        exit_code=0,
        headline="measured",
    )
    name = f"night-{night:02}-{life.plan}-{life.target}-{again}"
    plan = {**TEMPLATE.plan, "name": life.plan}
    return TEMPLATE.model_copy(
        update={"id": name, "created": started(night), "plan": plan, "targets": {life.target: target}}
    )


def session(result: Result) -> Session:
    """What is judged of it."""
    (target,) = result.targets.values()
    assert target.validity is not None
    return Session(dict(target.measurements), target.validity, dict(BYTES))


def job(life: Life, result: Result) -> NightJob:
    """What the night's document says of it."""
    (target,) = result.targets.values()
    variants = {}
    for name, each in target.summaries.items():
        figures = {key: getattr(each, key) for key in ("p50_ms", "p90_ms", "peak_memory_bytes", "metric")}
        variants[name] = JobVariant(digest=DIGESTS[name], bytes=BYTES[name], **figures)
    more: dict[str, Any] = {"device": target.device, "environment": target.environment["before"]}
    return NightJob(
        plan=life.plan,
        target=life.target,
        ended="done",
        run=result.id,
        folder=f"{life.plan}-{life.target}",
        started=target.started,
        emulated=life.emulated,
        runtime=target.runtime,
        metric="accuracy",
        direction="higher",
        variants=variants,
        validity=target.validity,
        judged=METRICS,
        **more,
    )


def farm(url: str, runs: Path, lives: Sequence[Life] = FARM, count: int = COUNT) -> Path:
    """Record `count` nights of a farm in the history at `url`; the last one is judged. Returns its folder in `runs`."""
    last = {}
    for night in range(count):
        for life in lives:
            if not life.gone(night):
                last[life] = run_of(life, night)
                record(last[life], url)
    cases, jobs = {}, []
    folder = runs / "nightly-20250126-020000"
    for life in lives:
        if life.gone(count - 1):
            cases[life] = Case(life.plan, life.target, "higher", None, SWITCHED_OFF)
            jobs.append(
                NightJob(
                    plan=life.plan, target=life.target, ended="missing", reason=SWITCHED_OFF, judged=METRICS
                )
            )
            continue
        tonight = last[life]
        save(tonight, folder / f"{life.plan}-{life.target}")
        identity = series.segment(series.identity(tonight.targets[life.target]))
        wanted = Wanted(life.plan, life.target, identity, DIGESTS["baseline"], DIGESTS["canary"])
        with reading(url) as connection:
            before = past(connection, wanted, started(count - 1))
        cases[life] = Case(life.plan, life.target, "higher", session(tonight), past=before)
        jobs.append(job(life, tonight))
    by_name = {(life.plan, life.target): life for life in lives}
    reruns: dict[tuple[str, str], tuple[str, ...]] = {}

    def rerun(suspected: Sequence[Case]) -> list[list[Session]]:
        sessions = []
        for case in suspected:
            of = case.plan, case.target
            anew = {again: run_of(by_name[of], count - 1, again) for again in (1, 2, 3)}
            reruns[of] = tuple(f"{case.plan}-{case.target}/rerun-{again}" for again in anew)
            for place, result in zip(reruns[of], anew.values(), strict=True):
                save(result, folder / place)
            sessions.append([session(result) for result in anew.values()])
        return sessions

    verdicts = judge(tuple(cases.values()), rerun)
    found = Night(
        id=folder.name,
        created=started(count - 1),
        finished=started(count - 1).replace("T02:00", "T02:47"),
        version="0.1.0",
        nightly="nightly",
        file="nightly.yaml",
        jobs=tuple(
            each.model_copy(update={"reruns": reruns.get((each.plan, each.target), ())}) for each in jobs
        ),
        verdicts=verdicts,
        exit_code=int(any(each.alarm for each in verdicts)),
    )
    nights.save(found, folder)
    return folder

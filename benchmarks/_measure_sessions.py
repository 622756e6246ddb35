"""Short sessions on this machine, by the way that every deploy takes, and what is kept of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import numpy as np

from benchmarks._remembered import code, remembered
from pipeline import commands, locate
from pipeline.artifacts import Artifact
from pipeline.measurement import validity
from pipeline.measurement.statistics import ratio
from pipeline.models.data import store_samples
from pipeline.models.samples import at_key
from pipeline.plan import MeasureSection
from pipeline.progress import Progress
from pipeline.sparse_tflite.random_inputs import random_inputs
from pipeline.stages import deploy, judge, measure
from pipeline.stages.deploy import Deployed
from targets.device import Device, open_device

RUNTIME = "ai-edge-litert"
# What evaluating costs is none of what is shown here.
SAMPLES = 2
TOLD_EVERY = 10
# With what these import: the stages of every deploy, and the runtimes that a device is given.
MADE_BY = ("benchmarks/measure.py", "device_agents", "pipeline/measurement")


def short(repetitions: int, **changes: Any) -> MeasureSection:
    """The protocol with all its tests, in a fraction of a second a process."""
    fields: dict[str, Any] = {
        "warmup_runs": 20,
        "warmup_seconds": 0.05,
        "max_warmup_seconds": 0.5,
        "min_samples": 40,
        "min_seconds": 0.1,
        "max_seconds": 0.2,
        "cold_starts": 0,
    }
    return MeasureSection(repetitions=repetitions, **(fields | changes))


@dataclasses.dataclass(frozen=True)
class Ready:
    """A device that has a runtime, models that take the same inputs, and these."""

    device: Device
    deployed: Deployed
    files: Mapping[str, Artifact]

    def session(self, options: MeasureSection, variants: Mapping[str, str]) -> dict[str, Any]:
        """Measure `variants`, names for models, in one session. Returns the verdict on it (`state`, `reasons`), the
        median of each process by variant (`medians_ns`) and, of two, the `ratio` of the second to the first with its
        interval, as every deploy has it.
        """
        paths = {name: self.deployed.variants[model] for name, model in variants.items()}
        deployed = dataclasses.replace(self.deployed, variants=paths)
        found = measure.run(options, self.device, deployed, Progress(quiet=True).line)
        files = {name: self.files[model] for name, model in variants.items()}
        measured = judge.measurements_of(found, files, emulated=False)
        valid = validity.check(measured, found.environment, options.repetitions)
        first, *others = measured.values()
        return {
            "state": valid.state,
            "reasons": list(valid.reasons),
            "medians_ns": {
                name: [float(np.median(each.samples_ns)) for each in one.repetitions]
                for name, one in measured.items()
            },
            "ratio": ratio(others[0], first).model_dump() if others else None,
        }


@contextmanager
def this_machine() -> Iterator[Device]:
    """This machine as a target like any other."""
    target = locate.read_target("local").model_copy(update={"runtime": RUNTIME})
    with open_device("local", target) as device:
        yield device


def ready(device: Device, models: Mapping[str, bytes]) -> Ready:
    """Bring the runtime, the models and seeded inputs to the device."""
    with commands.store().in_use() as store:
        files = {name: store.put("tflite", content) for name, content in models.items()}
        samples = random_inputs(next(iter(models.values())), "model")[:SAMPLES]
        inputs = at_key("inputs", store_samples("inputs", samples, store))
        assert inputs is not None
        return Ready(device, deploy.run(device, files, inputs, Progress(quiet=True).line), files)


def gathered(part: str, count: int, once: Callable[[int], dict[str, Any]]) -> list[dict[str, Any]]:
    """What `once`, called with 0, 1, ..., returns, until `count` of it may be compared, which `invalid` ones may not;
    at most twice as often. What was measured by the same code before is taken from the state folder.
    """
    made_by, found, compared = _made_by(), [], 0
    with Progress().step(part) as say:
        while compared < count and len(found) < 2 * count:
            number = len(found)
            found.append(remembered("measure", f"{made_by} {part} {number}", partial(once, number)))
            compared += found[-1].get("state") != "invalid"
            if len(found) % TOLD_EVERY == 0:
                say(f"{compared} of {count}")
    return found


@cache
def _made_by() -> str:
    """A digest of what is measured here, how, and by what."""
    return code(*MADE_BY)

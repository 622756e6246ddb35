"""What is known beforehand: models that are Python, run by the agent as shipped in a made-up runtime.

Such a model can map and allocate as much as it is told, do nothing at all, or do a device harm.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from device_agents import sysfiles
from pipeline.artifacts import Artifact
from pipeline.measurement import validity
from pipeline.measurement.validity import Validity
from pipeline.plan import MeasureSection
from pipeline.progress import Progress
from pipeline.stages import judge, measure
from pipeline.stages.deploy import Deployed
from pipeline.stages.measure import Session
from targets.device import Device
from targets.places import state_folder
from tests.agent_process import made_up_bundle


@contextlib.contextmanager
def kernel_that_tells(files: Mapping[str, str]) -> Iterator[Path]:
    """A folder in place of / for what the agent reads below /proc and /sys, with these files and no others."""
    with tempfile.TemporaryDirectory() as name:
        for path, content in files.items():
            Path(name, path).parent.mkdir(parents=True, exist_ok=True)
            Path(name, path).write_text(content)
        os.environ[sysfiles.ROOT_VARIABLE] = name
        try:
            yield Path(name)
        finally:
            del os.environ[sysfiles.ROOT_VARIABLE]


def measured(device: Device, sources: Mapping[str, str], options: MeasureSection, size: int = 0) -> Session:
    """A session of models of these sources, each a file of `size` bytes or as many as it needs."""
    # Where a file lies on a disk: the kernel counts one in memory as something else.
    with tempfile.TemporaryDirectory(dir=state_folder()) as name:
        folder, paths = Path(name), {}
        for number, (variant, source) in enumerate(sources.items()):
            path = folder / f"{number}.tflite"
            path.write_text(source.ljust(4096, "\n") if size else source)
            os.truncate(path, max(size, path.stat().st_size))
            paths[variant] = str(path)
        np.save(folder / "inputs.npy", np.ones((1, 3), np.float32))
        deployed = Deployed(
            runtime="tflite-runtime",
            bundle=str(made_up_bundle(folder / "bundle")),
            bundle_digest=None,
            provision="made up",
            variants=paths,
            inputs=str(folder / "inputs.npy"),
            outputs=(),
        )
        return measure.run(options, device, deployed, Progress(quiet=True).line)


def believed(session: Session, expected: int) -> Validity:
    """The verdict on it."""
    files = {name: Artifact("", "tflite", Path(name)) for name in session.repetitions}
    return validity.check(
        judge.measurements_of(session, files, emulated=False), session.environment, expected
    )

"""Many small models run on a device by one process there, see `_device_worker.py`."""

from __future__ import annotations

import base64
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from device_agents.interpreter import executed
from targets.device import open_device
from targets.errors import TargetError
from targets.target import TargetBase, connect, python_of

WORKER = Path(__file__).with_name("_device_worker.py")
RUN_S = 30.0
PROCESS_S = 900.0


@dataclass(frozen=True)
class Run:
    """A model of the archive to be run: with XNNPACK or without, `times` again for the shortest time."""

    model: str
    inputs: str
    delegate: bool = True
    times: int = 0


@dataclass(frozen=True, eq=False)
class Ran:
    """What came of it: the outputs (samples, ...) in the file's order and the operators that it ran, DELEGATE
    standing for those XNNPACK took; or an error."""

    outputs: tuple[np.ndarray, ...] = ()
    operators: tuple[str, ...] = ()
    seconds: float | None = None
    error: str = ""


class Worker:
    """A runtime on a device; `archive` is what its runs read."""

    def __init__(self, name: str, target: TargetBase, runtime: str) -> None:
        self.target, self.runtime = target.model_copy(update={"runtime": runtime}), runtime
        with open_device(name, self.target) as device:
            self.bundle = device.provision(lambda _: None).folder
        self.folder = f"{self.target.workdir}/bench-{os.getpid()}"

    def send(self, files: Mapping[str, bytes]) -> None:
        """Bring the files that runs are about, in place of those before."""
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "archive")
            path.write_bytes(packed.getvalue())
            transport = connect(self.target)
            try:
                transport.put(path, f"{self.folder}/archive.zip", deadline_s=PROCESS_S)
                transport.put(WORKER, f"{self.folder}/worker.py", deadline_s=PROCESS_S)
            finally:
                transport.close()

    def run(self, runs: Sequence[Run]) -> list[Ran]:
        """Run each; one that ends the process is an error of its own, and the next begins in a new process."""
        found: list[Ran] = []
        while len(found) < len(runs):
            lines, died = self._process(runs[len(found) :])
            found += [_ran(json.loads(line)) for line in lines]
            if len(found) < len(runs):
                found.append(Ran(error=f"the process died: {died}"))
        return found

    def _process(self, runs: Sequence[Run]) -> tuple[list[bytes], str]:
        """The lines of one process, and how it ended."""
        lines: list[bytes] = []
        asked = "".join(json.dumps(vars(each)) + "\n" for each in runs) + "\n"
        command = [python_of(self.target), f"{self.folder}/worker.py", self.bundle, self.runtime]
        command += [f"{self.folder}/archive.zip", str(RUN_S)]
        transport = connect(self.target)
        try:
            done = transport.run(command, stdin=[asked.encode()], deadline_s=PROCESS_S, on_line=lines.append)
        finally:
            transport.close()
        said = done.stderr.decode(errors="replace").strip().splitlines()
        if "Traceback (most recent call last):" in said:
            raise TargetError(f"the worker failed: {said[-1]}")
        return lines, f"exit {done.returncode}; {said[-1] if said else 'nothing said'}"


def _ran(found: Mapping[str, Any]) -> Ran:
    if "error" in found:
        return Ran(error=found["error"])
    outputs = tuple(
        np.frombuffer(base64.b64decode(data), "<f4").reshape(shape) for data, shape in found["answers"]
    )
    return Ran(outputs, tuple(executed(found["nodes"])), found["seconds"])

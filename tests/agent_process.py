"""The real agent, packed and started as a process of its own, for tests to talk to."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from targets.agent_archive import build_agent

# A runtime whose models are Python, in the first bytes of the file: executed at every inference; doubles its input.
INTERPRETER = """
import os, signal, sys, time
import numpy as np

class Interpreter:
    def __init__(self, model_path, num_threads):
        self.path = model_path
        with open(model_path) as stream:
            self.source = stream.read(4096)
        if self.source == "unreadable":
            raise ValueError("this is no flatbuffer")
        self.values = {}

    def allocate_tensors(self): pass
    def get_input_details(self): return [{"name": "in", "index": 0, "shape": (1, 3), "dtype": np.float32}]
    def get_output_details(self): return [{"name": "out", "index": 1, "shape": (1, 3), "dtype": np.float32}]
    def set_tensor(self, index, value): self.values[index] = value.copy()
    def get_tensor(self, index): return 2 * self.values[0]

    def invoke(self):
        if self.source:
            exec(self.source)
"""


def made_up_bundle(folder: Path) -> Path:
    """A bundle of numpy and a made-up tflite-runtime (see INTERPRETER) in this folder."""
    package = folder / "tflite_runtime"
    if not package.exists():
        package.mkdir(parents=True)
        package.joinpath("__init__.py").write_text("__version__ = 'made up'\n")
        package.joinpath("interpreter.py").write_text(INTERPRETER)
        numpy = Path(np.__file__).parent
        for part in (numpy, numpy.with_name("numpy.libs")):
            if part.exists():
                folder.joinpath(part.name).symlink_to(part)
    return folder


class Agent:
    """An agent in a folder of its own; jobs go in, lists of events come out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.archive = folder / "agent.pyz"
        self.archive.write_bytes(build_agent()[0])
        self.lock = folder / "lock"

    def start(self, line: bytes, *, before: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        """A started agent that has been given this line; its input is still open."""
        argv = [*before, sys.executable, str(self.archive)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, cwd=self.folder)
        assert process.stdin
        process.stdin.write(line)
        process.stdin.flush()
        return process

    def answer(self, *, before: tuple[str, ...] = (), **job: Any) -> list[dict[str, Any]]:
        """Every event of one job. The exit code must agree with the last of them."""
        return self.answer_line(json.dumps({"version": 1, **job}).encode() + b"\n", before=before)

    def answer_line(self, line: bytes, *, before: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        """The same, for a line that may be no job at all."""
        with self.start(line, before=before) as process:
            assert process.stdout
            events = [json.loads(said) for said in process.stdout]
        assert [event["event"] in ("done", "error") for event in events[:-1]] == [False] * (len(events) - 1)
        assert (events[-1]["event"], process.returncode) in (("done", 0), ("error", 1))
        return events

    def error(self, **job: Any) -> dict[str, Any]:
        """The error that a job ends in."""
        last = self.answer(**job)[-1]
        assert last["event"] == "error", last
        return last

    def bundle(self) -> Path:
        """Its bundle, see `made_up_bundle`."""
        return made_up_bundle(self.folder / "bundle")

    def measurement(self, *steps: dict[str, Any], models: dict[str, str], **changes: Any) -> dict[str, Any]:
        """A `measure` job on the made-up runtime; `models` are the Python sources of the variants."""
        variants = {}
        for name, source in models.items():
            variants[name] = str(self.folder / f"{name}.tflite")
            Path(variants[name]).write_text(source)
        inputs = self.folder / "inputs.npy"
        np.save(inputs, np.arange(6, dtype=np.float32).reshape(2, 3))
        return {
            "version": 1,
            "do": "measure",
            "lock": str(self.lock),
            "bundle": str(self.bundle()),
            "runtime": "tflite-runtime",
            "threads": 1,
            "variants": variants,
            "inputs": str(inputs),
            "steps": list(steps),
            "protocol": PROTOCOL,
            "step_deadline_s": 60,
            **changes,
        }


PROTOCOL = {
    "warmup_runs": 2,
    "warmup_seconds": 0,
    "max_warmup_seconds": 0,
    "min_samples": 3,
    "min_seconds": 0,
    "max_samples": 5,
    "max_seconds": 0,
    "interval": 0,
}


def time_step(variant: str) -> dict[str, Any]:
    """A step that times a variant."""
    return {"kind": "time", "variant": variant}


def small_disk(folder: Path) -> tuple[str, ...]:
    """What goes before a command so that `folder` is a disk of 64 KiB to it; skips where that is forbidden."""
    folder.mkdir()
    mount = 'mount -t tmpfs -o size=64k tmpfs "$0" && exec "$@"'
    before = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(folder))
    if subprocess.run([*before, "true"], capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody mount a small disk in a namespace of their own")
    return before


class Hanging:
    """A model that says which process it is in, then hangs; `ended` waits for the end of that process."""

    def __init__(self, folder: Path) -> None:
        fifo = folder / "fifo"
        os.mkfifo(fifo)
        self.source = f"open({str(fifo)!r}, 'w').write(str(os.getpid()))\nwhile True: time.sleep(3600)"
        self._fifo = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)

    def process(self) -> int:
        """The process id, once the model is in its inference."""
        assert select.select([self._fifo], [], [], 60)[0], "the model was never run"
        pid = int(os.read(self._fifo, 64))
        self._pidfd = os.pidfd_open(pid)
        return pid

    def ended(self) -> bool:
        """Wait for the end of the process; False if it outlives all patience."""
        ready = select.select([self._pidfd], [], [], 60)[0]
        os.close(self._pidfd)
        os.close(self._fifo)
        return bool(ready)

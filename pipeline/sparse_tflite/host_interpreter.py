"""What .tflite files answer on this machine, run by TensorFlow's interpreter in a process apart.

The interpreter is native code that believes much of what a file says: about one damaged file in 150 that it loads
crashes it, and others never end or ask for all memory. Here that is a refusal.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.models.samples import Samples, keyed, of_names
from pipeline.sparse_tflite import interpreter_process

# The longest that loading a file, or one sample, may take.
SECONDS = 300.0
# Address space: what a process has before it reads a file, and a file's weights unpacked, packed again, and copied.
MEMORY, TIMES_THE_FILE = 4 << 30, 16
ERRORS = "errors.txt"
WHO = "the interpreter of TensorFlow on this machine"


def outputs_on_host(content: bytes, inputs: Samples) -> Samples:
    """As `answers_on_host`, of one file."""
    (answers,) = answers_on_host([content], inputs)
    return answers


def answers_on_host(contents: Sequence[bytes], inputs: Samples) -> list[Samples]:
    """The answers (n, ...) of each file to `inputs` (n, ...), one sample at a time, all files in one process.

    Several inputs and outputs go by the names of their tensors; where these are whole numbers that stand for real ones,
    the real ones go in and come out. Raises `UserError` when a file cannot be run.
    """
    with tempfile.TemporaryDirectory(prefix="edgepipe-") as name:
        folder = Path(name)
        for number, content in enumerate(contents):
            (folder / f"{number}.tflite").write_bytes(content)
        np.savez(folder / "inputs.npz", **keyed("inputs", inputs))  # type: ignore[arg-type]
        memory = MEMORY + TIMES_THE_FILE * max(map(len, contents), default=0)
        with _process(folder, len(contents), memory) as process:
            said = _lines(process)
            return [_answers(process, said, folder, number) for number in range(len(contents))]


@contextlib.contextmanager
def _process(folder: Path, files: int, memory: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", interpreter_process.__name__, str(folder), str(files), str(memory)]
    # What this process finds, that one finds: neither needs to be installed.
    settings = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TF_CPP_MIN_LOG_LEVEL": "3"}
    with (
        (folder / ERRORS).open("wb") as errors,
        subprocess.Popen(
            command, env=settings, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def _answers(process: subprocess.Popen[bytes], said: Iterator[bytes], folder: Path, number: int) -> Samples:
    line = next((line for line in said if line != interpreter_process.STEP), None)
    if line is None:
        raise UserError(_death(process.wait(), folder))
    ended: dict[str, Any] = json.loads(line)
    if "refused" in ended:
        raise UserError(f"{WHO} cannot run the .tflite file: {ended['refused']}")
    with np.load(folder / f"{number}.npz", allow_pickle=False) as found:
        return of_names([found[str(at)] for at in range(len(ended["names"]))], ended["names"])


def _lines(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """What the process says, line by line, as long as it says something in time."""
    assert process.stdout is not None
    descriptor, waiting = process.stdout.fileno(), b""
    while select.select([descriptor], [], [], SECONDS)[0]:
        received = os.read(descriptor, 1 << 16)
        if not received:
            return
        *lines, waiting = (waiting + received).split(b"\n")
        yield from lines
    raise UserError(
        f"{WHO} did not get through one sample of the .tflite file within {SECONDS:g} s; is there a loop without end?"
    )


def _death(code: int, folder: Path) -> str:
    if code < 0:
        return f"{WHO} crashed on the .tflite file (signal {signal.Signals(-code).name})"
    lines = (folder / ERRORS).read_text(errors="replace").splitlines()
    return (
        f"{WHO} ended with exit code {code} on the .tflite file: {lines[-1] if lines else 'without a word'}"
    )

"""A working folder with a small plan, and the command line run in it as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent

MODEL = """
import keras
from sizes import WIDTH

def build():
    return keras.Sequential([
        keras.Input((4,)),
        keras.layers.Dense(WIDTH, activation="relu", name="hidden1"),
        keras.layers.Dense(WIDTH, activation="relu", name="hidden2"),
        keras.layers.Dense(3, activation="softmax", name="species"),
    ])
"""
PLAN = """
name: small
model: {source: model.py:build}
data: {source: sklearn:iris, test_fraction: 0.3}
train: {epochs: 15, batch_size: 16, learning_rate: 0.01}
prune: {method: magnitude, sparsity: 0.5}
measure: {repetitions: 2, warmup_runs: 1, warmup_seconds: 0, max_warmup_seconds: 0, min_samples: 5,
          min_seconds: 0, max_samples: 10, max_seconds: 0, cold_starts: 0}
gates: {max_metric_drop: 0.5}
"""


@dataclass(frozen=True)
class Ended:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Workspace:
    """`folder` is the working folder, `home` the state folder."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder, self.home = folder, home
        (folder / "model.py").write_text(MODEL)
        (folder / "sizes.py").write_text("WIDTH = 32\n")
        (folder / "plan.yaml").write_text(PLAN)

    def start(self, *arguments: str, program: tuple[str, ...] = ("-m", "pipeline")) -> subprocess.Popen[str]:
        """Start the command in a process group of its own."""
        environment: Mapping[str, str] = {
            **os.environ,
            "EDGEPIPE_HOME": str(self.home),
            "PYTHONPATH": str(ROOT),
        }
        return subprocess.Popen(
            [sys.executable, *program, *arguments],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, program: tuple[str, ...] = ("-m", "pipeline")) -> Ended:
        """Run the command to its end."""
        process = self.start(*arguments, program=program)
        out, err = process.communicate(timeout=900)
        assert "Traceback" not in out + err, err
        return Ended(process.returncode, out, err)

    def interrupt_at(self, words: str, number: signal.Signals, *arguments: str) -> Ended:
        """Run the command, and send it a signal when a line of its progress holds `words`."""
        process = self.start(*arguments)
        assert process.stderr is not None
        seen = []
        for line in process.stderr:
            seen.append(line)
            if words in line:
                process.send_signal(number)
                break
        else:
            raise AssertionError(f"never said {words!r}: {''.join(seen)}")
        out, err = process.communicate(timeout=120)
        return Ended(process.returncode, out, "".join(seen) + err)

    def result(self) -> Any:
        """The result document of the latest run."""
        return json.loads((self.folder / "runs" / "latest" / "result.json").read_text())

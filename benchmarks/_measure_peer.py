"""LiteRT's own `litert-benchmark`, in an environment of its own in the state folder, made once a version."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from targets.places import state_folder

# The runtime of the bundle that the agent is given, see targets/provisioning/runtimes.py.
PEER = "ai-edge-litert==2.3.0"
ARGUMENTS = ("--num_threads", "1", "--warmup_runs", "20", "--num_runs")
DEADLINE_S = 300.0


def folder() -> Path:
    """Where its environment is, or will be."""
    return state_folder() / "peers" / PEER


def environment() -> Path:
    """The folder of its programs."""
    ready = folder() / "ready"
    if not ready.exists():
        print(f"making an environment for {PEER} in {folder()}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder()], check=True)
        subprocess.run([folder() / "bin/python", "-m", "pip", "install", "--quiet", PEER], check=True)
        ready.touch()
    return folder() / "bin"


def median_ms(programs: Path, model: Path, runs: int) -> float:
    """What one process of it tells of a model, in hundredths of a millisecond. Raises `RuntimeError` if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        command = [programs / "litert-benchmark", "--model", model, "--result_json", result, *ARGUMENTS]
        done = subprocess.run([*command, str(runs)], capture_output=True, text=True, timeout=DEADLINE_S)
        if done.returncode or not result.exists():
            raise RuntimeError(f"litert-benchmark failed: {done.stderr.strip().splitlines()[-1:]}")
        return float(json.loads(result.read_text())["latency"]["median_ms"])

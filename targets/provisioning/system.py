"""The runtime that is installed on the device: nothing is sent but the agent."""

from __future__ import annotations

from targets.probe import Probe
from targets.provisioning import Ground, Provisioned, Say, trial
from targets.target import TargetBase, python_of

# In the order in which `auto` prefers them.
NAMES = ("tflite-runtime", "ai-edge-litert", "tensorflow")


def misfit(target: TargetBase, probe: Probe) -> str:
    """Why the device's own runtime does not serve; empty when it does."""
    if probe.python is None:
        return probe.python_problem
    if not _wanted(target, probe):
        has = ", ".join(f"{name} {version}" for name, version in probe.runtimes.items()) or "none"
        return f"its Python has no {' or '.join(NAMES if target.runtime == 'auto' else [target.runtime])} ({has})"
    return ""


def runtime(target: TargetBase, probe: Probe) -> str:
    """The one installed."""
    return _wanted(target, probe)[0]


def provide(ground: Ground, say: Say) -> Provisioned:
    """Name the one installed, when it can be imported. Raises `TargetError`."""
    name, python = _wanted(ground.target, ground.probe)[0], (python_of(ground.target),)
    say(f"using the device's own {name} {ground.probe.runtimes[name]}")
    trial.try_out(ground, python, name, None)
    return Provisioned(name, None, None, python)


def _wanted(target: TargetBase, probe: Probe) -> list[str]:
    return [name for name in NAMES if name in probe.runtimes and target.runtime in ("auto", name)]

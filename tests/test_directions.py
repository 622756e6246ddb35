"""The directions of imports, held by a walk over every file."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.source_digest import imported_modules

ROOT = Path(__file__).parent.parent
HEAVY = ("tensorflow", "keras", "sklearn", "plotly", "paramiko")
# What a command that does not use it does not load.
LEFT_OUT = (*HEAVY[:4], "sqlalchemy")
KERNELS = ("pipeline/pruning/importance", "pipeline/measurement")
# The files of pruning that lead from a Keras model to the kernels and back.
ADAPTERS = {
    "affected",
    "batch_norm",
    "bias_correction",
    "distillation",
    "head_refit",
    "keras_derivatives",
    "keras_layers",
    "keras_network",
    "output_refit",
    "prune",
    "reconstruction",
    "recovery",
    "unit_account",
    "unit_senses",
    "units",
}


def files(folder: str) -> list[Path]:
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found
    return found


def imports_of(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported_modules(path, ROOT)}


def imports_at_the_top(path: Path) -> set[str]:
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", files("targets"), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_targets_know_nothing_of_the_pipeline(path: Path) -> None:
    assert not imports_of(path) & {"pipeline", "device_agents", "tests"}


@pytest.mark.parametrize("path", files("device_agents"), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_agents_need_the_standard_library_numpy_and_an_interpreter(path: Path) -> None:
    interpreters = {"tflite_runtime", "ai_edge_litert", "tensorflow"}
    allowed = sys.stdlib_module_names | {"device_agents", "numpy"} | interpreters
    assert imports_of(path) <= allowed


def test_no_agent_file_is_named_as_a_module_of_the_standard_library() -> None:
    assert not {path.stem for path in files("device_agents")} & (sys.stdlib_module_names - {"__main__"})


@pytest.mark.parametrize("path", files("pipeline"), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_heavy_packages_are_imported_where_they_are_used(path: Path) -> None:
    assert not imports_at_the_top(path) & set(HEAVY)


@pytest.mark.parametrize("folder", KERNELS)
def test_kernels_know_no_keras(folder: str) -> None:
    for path in files(folder):
        assert not imports_of(path) & {"keras", "tensorflow"}, path


def test_of_pruning_only_the_adapters_know_keras_or_its_graph() -> None:
    room = ROOT / "pipeline" / "pruning"
    knowing = {
        path.stem
        for path in room.glob("*.py")
        if imports_of(path) & {"keras", "tensorflow"}
        or any(name.startswith("pipeline.models") for name in imported_modules(path, ROOT))
    }
    assert knowing == ADAPTERS


def test_reports_compute_nothing() -> None:
    for path in files("pipeline/reports"):
        assert not imports_of(path) & {"numpy", "scipy"}, path


def test_stages_know_no_engine() -> None:
    for path in files("pipeline/stages"):
        used = {name for name in imported_modules(path, ROOT) if name.startswith("pipeline.")}
        assert not {
            name for name in used if name.split(".")[1] in ("cli", "engine", "commands", "deployment")
        }, path


@pytest.mark.parametrize(
    "name", ["pipeline.cli", "pipeline.deployment", "pipeline.stages.convert", "pipeline.pruning.prune"]
)
def test_importing_pulls_in_nothing_heavy(name: str) -> None:
    script = (
        f"import sys, {name}; print(sorted({{m.split('.')[0] for m in sys.modules}} & {set(LEFT_OUT)!r}))"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert said.stdout.strip() == "[]"

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from pipeline import deployment, locate
from targets import cores, provisioning
from targets.errors import TargetError
from targets.probe import Probe, probe
from targets.provisioning.bundle import build_bundle, tree_digest
from targets.provisioning.runtimes import RUNTIMES, choose
from targets.transports import local


def device(**changes: Any) -> Probe:
    fields: dict[str, Any] = dict(
        python=(3, 11, 2),
        implementation="cpython",
        machine="aarch64",
        bits=64,
        system="linux",
        libc=("glibc", "2.36"),
        agent=None,
    )
    return Probe(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "runtime"),
    [
        ({}, "tflite-runtime"),
        ({"machine": "x86_64", "libc": ("glibc", "2.17")}, "tflite-runtime"),
        ({"bits": 32}, "tflite-runtime"),
        ({"python": (3, 13, 1), "libc": ("glibc", "2.41")}, "ai-edge-litert"),
        ({"libc": ("glibc", "2.31")}, "ai-edge-litert"),
    ],
)
def test_auto_takes_what_fits(changes: dict[str, Any], runtime: str) -> None:
    assert choose("auto", device(**changes)).name == runtime


@pytest.mark.parametrize(
    ("changes", "wanted", "reason"),
    [
        ({"libc": ("", "")}, "auto", "the device has another C library"),
        ({"python": (3, 13, 1)}, "tflite-runtime", "the device has cpython 3.13"),
        ({"bits": 32, "python": (3, 13, 1)}, "auto", "the device's userland is armv7l"),
        ({"implementation": "pypy"}, "auto", "the device has pypy 3.11"),
        ({"machine": "riscv64"}, "ai-edge-litert", "the device's userland is riscv64"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(
    changes: dict[str, Any], wanted: str, reason: str
) -> None:
    with pytest.raises(TargetError, match=reason):
        choose(wanted, device(**changes))


def test_tensorflow_serves_where_the_device_has_it() -> None:
    target = locate.read_target("local").model_copy(update={"runtime": "tensorflow"})
    there = device(runtimes={"tensorflow": "2.21.0"})
    assert provisioning.choose(target, there)[0] == "system"
    assert provisioning.runtime_of(target, there) == "tensorflow"
    with pytest.raises(TargetError, match="no portable: tensorflow is not sent to devices"):
        provisioning.choose(target, device())
    assert not deployment.has_rules("tensorflow") and deployment.has_rules("tflite-runtime")
    assert deployment.suit_of("local", target, there) is None


def test_the_userland_decides_not_the_kernel() -> None:
    assert device(machine="aarch64", bits=32).architecture == "armv7l"
    assert device(machine="aarch64", bits=64).architecture == "aarch64"


def test_this_machine_answers_the_probe(tmp_path: Path) -> None:
    agent = tmp_path / "agent"
    agent.write_bytes(b"abc")
    transport = local.connect(local.Options())
    found = probe(transport, sys.executable, str(agent))
    assert found.python == sys.version_info[:3]
    assert found.agent == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert probe(transport, sys.executable, str(tmp_path / "none")).agent is None


def test_a_device_without_python_says_what_its_shell_knows(tmp_path: Path) -> None:
    agent = tmp_path / "agent"
    agent.write_bytes(b"abc")
    transport = local.connect(local.Options())
    found, with_python = (
        probe(transport, python, str(agent)) for python in ("no-such-python", sys.executable)
    )
    assert found.python is None and "no 'no-such-python' that starts" in found.python_problem
    same = ("machine", "bits", "system", "libc", "agent", "features", "home")
    assert found.model_dump(include=set(same)) == with_python.model_dump(include=set(same))
    assert found.core == cores.of_this_machine() and found.free_kib


def test_an_answer_that_is_no_pythons_is_told() -> None:
    found = probe(local.connect(local.Options()), "/bin/echo", "agent")
    assert "did not answer as a Python does" in found.python_problem


def test_a_python_too_old_is_none(tmp_path: Path) -> None:
    python = tmp_path / "python two"
    python.write_text("""#!/bin/sh\necho 'warning: old'; echo '{"python": [3, 8, 10], "libc": ["", ""]}'\n""")
    python.chmod(0o755)
    found = probe(local.connect(local.Options()), str(python), "agent")
    assert found.python is None and "is 3.8.10" in found.python_problem


def test_tree_digest_known_answer(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two").write_bytes(b"2")
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b" / "__pycache__").mkdir()
    (tmp_path / "b" / "__pycache__" / "x.pyc").write_bytes(b"cache")
    # sha256 of "a\0" + sha256("1") + "\n" + "b/two\0" + sha256("2") + "\n", by coreutils
    assert tree_digest(tmp_path) == "003fd7f7f46ddc42278a43bea5b92d7a094f4683427b2e1db831ec06b959a46e"


@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda runtime: runtime.name)
def test_a_bundle_is_built_once_and_holds_what_its_digest_says(runtime: Any, tmp_path: Path) -> None:
    here = probe(local.connect(local.Options()), sys.executable, "none")
    if runtime.misfit(here):
        pytest.skip(f"{runtime.name} {runtime.misfit(here)}")
    bundle = build_bundle(runtime, here)
    written = bundle.archive.stat().st_mtime_ns
    assert build_bundle(runtime, here) == bundle
    assert bundle.archive.stat().st_mtime_ns == written
    with tarfile.open(bundle.archive) as archive:
        archive.extractall(tmp_path, filter="data")
    assert tree_digest(tmp_path) == bundle.digest
    packages = json.loads((bundle.archive.parent / "bundle.json").read_text())["packages"]
    assert {name.split("-")[0] for name in packages} == {runtime.name.replace("-", "_"), "numpy"}


def test_packages_that_cannot_be_had_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPIPE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(TargetError, match="could not be fetched: ERROR"):
        build_bundle(RUNTIMES[0], device())
    assert not list((tmp_path / "bundles").iterdir())

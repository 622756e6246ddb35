from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from pipeline import model_files
from pipeline.errors import UserError
from pipeline.reports import terminal
from pipeline.sparse_tflite import runtimes
from pipeline.sparse_tflite.lint import LintReport, lint
from targets import cores
from tests.sparse_networks import sparse_file
from tests.workspace import Workspace

LITERT = runtimes.load("ai-edge-litert")
TFLITE = runtimes.load("tflite-runtime")
# As measured with both runtimes on emulated cores: sparse and right, dense and right, wrong or not loading.
SPARSE = (
    "base",
    "residual",
    "squeeze-excite",
    "hard-swish",
    "swish",
    "leaky ReLU",
    "5x5 depthwise",
    "bilinear",
    "stride 2, padding 1",
)
DENSE = ("stem same", "stem stride 1", "1 channel", "concat", "max tail", "average pool tail")
WRONG = {
    "stride 2 same": "ZeroPadding2D(1)",
    "stride 2, padding 0 and 1": "ZeroPadding2D(1)",
    "max pool": "strides=2",
    "average pool": "strides=2",
    "inner 3x3": "a depthwise convolution and a 1x1 convolution",
    "concat of branches": "Add",
    "second output": "second output",
}


def report(name: str, runtime: runtimes.Runtime = LITERT, core: str = "arm") -> LintReport:
    return lint(sparse_file(name), name, runtime, core)  # type: ignore[arg-type]


def outcomes(found: LintReport, operator: str = "CONV_2D") -> list[str]:
    """Of the pruned convolutions, in their order."""
    return [each.outcome for each in found.graphs[0] if each.operator == operator and each.zeros > 0.5]


@pytest.mark.parametrize("name", SPARSE)
def test_clusters_within_the_rules_run_sparse(name: str) -> None:
    found = report(name)
    assert not found.bad
    assert set(outcomes(found)) == {"runs sparse"}


@pytest.mark.parametrize("name", DENSE)
def test_clusters_that_never_begin_or_end_run_dense(name: str) -> None:
    found = report(name)
    assert not found.bad
    assert set(outcomes(found)) == {"stored sparse for size only"}


@pytest.mark.parametrize("name", WRONG)
def test_dangerous_patterns_would_be_wrong_and_say_what_helps(name: str) -> None:
    (bad, *_) = report(name).bad
    assert bad.outcome == "would be wrong"
    assert "channel-first data that is read as channel-last" in bad.reason
    assert WRONG[name] in bad.remedy


def test_a_convolution_after_the_mean_does_not_load_in_one_runtime_and_runs_in_the_other() -> None:
    (bad,) = report("convolution after the mean").bad
    assert bad.outcome == "does not load"
    assert "Dense after GlobalAveragePooling2D" in bad.remedy
    assert not report("convolution after the mean", TFLITE, "arm-fp16").bad


@pytest.mark.parametrize("name", ["base", "max pool"])
def test_where_no_core_is_sparse_nothing_is_wrong_and_nothing_fast(name: str) -> None:
    for runtime, core in ((LITERT, "x86"), (TFLITE, "x86"), (TFLITE, "arm")):
        found = report(name, runtime, core)
        assert not found.bad
        assert set(outcomes(found)) == {"stored sparse for size only"}
    assert "sparse convolutions on arm-fp16 only" in report(name, TFLITE, "arm").model_dump_json()


def test_the_older_runtime_goes_sparse_on_cores_with_half_precision() -> None:
    assert set(outcomes(report("base", TFLITE, "arm-fp16"))) == {"runs sparse"}
    assert report("max pool", TFLITE, "arm-fp16").bad


def test_the_stem_is_told_what_begins_a_cluster() -> None:
    found = report("stem same")
    (remedy,) = {each.remedy for each in found.graphs[0] if each.operator == "CONV_2D"}
    assert remedy.startswith("use ZeroPadding2D(1) and padding='valid' in the stem; or")
    assert "`edgepipe rewrite`" in remedy


def test_an_open_batch_is_not_called_sparse_where_its_size_is_computed_with() -> None:
    assert set(outcomes(lint(sparse_file("base", None), "open", LITERT, "arm"))) == {"runs sparse"}
    found = lint(sparse_file("flatten after the mean", None), "open", LITERT, "arm")
    assert set(outcomes(found)) == {"stored sparse for size only"}
    remedies = {each.remedy for each in found.graphs[0] if each.operator == "CONV_2D" and each.zeros > 0.5}
    assert remedies == {"convert with a fixed batch of 1"}


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_file_is_refused_or_read_never_worse(seed: int) -> None:
    random = np.random.default_rng(seed)
    whole = sparse_file("base")
    for _ in range(15):
        content = bytearray(whole)
        for place in random.integers(8, len(content), random.integers(1, 9)):
            content[place] = random.integers(256)
        try:
            lint(bytes(content), "damaged", LITERT, "arm")
        except UserError as error:
            assert "damaged" in str(error)


def test_what_is_no_tflite_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a TFLite file"):
        lint(b"PK\x03\x04" + bytes(100), "model.zip", LITERT, "arm")


# --- the command


def test_the_command_exits_with_what_it_found(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, tmp_path / "home")
    for name in ("max pool", "base"):
        (tmp_path / f"{name}.tflite").write_bytes(sparse_file(name))
    wrong = workspace.run("lint", "max pool.tflite", "--target", "rpi4", "--json")
    assert wrong.code == 1
    assert "would be wrong" in {each["outcome"] for each in wrong.json["graphs"][0]}
    right = workspace.run("lint", "base.tflite", "--runtime", "ai-edge-litert", "--core", "arm-fp16")
    assert right.code == 0
    assert "runs sparse: 2" in right.out
    assert workspace.run("lint", "plan.yaml").code == 2


def test_each_change_that_helps_is_shown_once() -> None:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(terminal.lint_tables(report("max pool")))
    shown = captured.get()
    assert shown.count("would help: let a depthwise convolution take the stride") == 1
    assert "would be wrong: 1" in shown


def test_a_target_says_its_runtime_and_core(tmp_path: Path) -> None:
    model = tmp_path / "base.tflite"
    model.write_bytes(sparse_file("base"))
    found = model_files.lint(model, "virtual-rpi4", "", "")
    assert (found.runtime, found.core) == ("ai-edge-litert 2.3", "arm")
    assert model_files.lint(model, "rpi4", "tflite-runtime", "arm-fp16").runtime == "tflite-runtime 2.14"
    here = model_files.lint(model, "local", "", "")
    assert here.runtime.split()[0] in ("ai-edge-litert", "tflite-runtime")
    with pytest.raises(UserError, match="did you mean 'arm'") as caught:
        model_files.lint(model, "rpi4", "litert", "arm7")
    assert "unknown runtime 'litert'" in str(caught.value)


def test_a_target_that_does_not_say_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "targets").mkdir()
    lines = "transport: ssh\nssh: {host: there, user: pi}\nworkdir: w\ninstall_path: i\n"
    (tmp_path / "targets" / "bare.yaml").write_text(lines)
    (tmp_path / "base.tflite").write_bytes(sparse_file("base"))
    with pytest.raises(UserError, match="--runtime ai-edge-litert"):
        model_files.lint(tmp_path / "base.tflite", "bare", "", "arm")
    with pytest.raises(UserError, match="--core arm"):
        model_files.lint(tmp_path / "base.tflite", "bare", "ai-edge-litert", "")


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "core"),
    [
        ("x86_64", None, "x86"),
        ("aarch64", "Features : fp asimd evtstrm", "arm"),
        ("aarch64", "Features : fp asimd fphp asimdhp", "arm-fp16"),
        ("armv7l", "Features : neon", "arm"),
        ("arm64", None, "arm-fp16"),
        ("aarch64", None, None),
        ("riscv64", None, None),
    ],
)
def test_the_kind_of_this_machines_cores(
    machine: str, cpuinfo: str | None, core: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert cores.of_this_machine(tmp_path / "cpuinfo") == core

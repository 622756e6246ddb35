"""`edgepipe deploy` as a user runs it: real training, real conversion, a real agent on this machine."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

import jsonschema
import pytest

from device_agents.sysfiles import ROOT_VARIABLE
from pipeline import result
from tests.workspace import ROOT, Workspace

DEPLOY = ("deploy", "plan.yaml")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("work"), home)
    ended = workspace.run(*DEPLOY)
    assert ended.code == 0, ended.err
    return workspace


def test_the_result_says_everything(workspace: Workspace) -> None:
    found = workspace.result()
    local = found["targets"]["local"]
    assert set(local["measurements"]) == {"baseline", "dense", "sparse"}
    for measurement in local["measurements"].values():
        assert [5 <= len(each["samples_ns"]) <= 10 for each in measurement["repetitions"]] == [True, True]
        assert measurement["metric"] > 0.6
    assert local["agreement"]["agrees"] and local["agreement"]["samples"] == 45
    assert [layer["layer"] for layer in found["model"]["layers"]] == ["hidden1", "hidden2", "species"]
    assert all(layer["reason"] for layer in found["model"]["layers"])
    assert local["winner"]["variant"] in ("dense", "sparse")
    page = (workspace.folder / "runs" / "latest" / "report.html").read_text()
    assert "hidden2" in page


def test_the_result_fits_its_published_schema(workspace: Workspace) -> None:
    schema = json.loads((ROOT / "docs" / "result.schema.json").read_text())
    assert schema == result.json_schema(), "write it anew: edgepipe schema > docs/result.schema.json"
    jsonschema.Draft202012Validator(schema).validate(workspace.result())
    assert result.load(workspace.folder / "runs" / "latest").schema_version == 2


def test_the_history_has_what_was_measured(workspace: Workspace) -> None:
    run = workspace.result()["id"]
    rows = workspace.run("history", "list", "--last", "1000", "--json").json
    assert {row["variant"] for row in rows if row["run"] == run} == {"baseline", "dense", "sparse"}


def test_a_history_that_cannot_be_had_takes_nothing_from_a_run(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace.folder / "broken.db").write_text("no database")
    monkeypatch.setenv("EDGEPIPE_HISTORY", f"sqlite:///{workspace.folder}/broken.db")
    ended = workspace.run(*DEPLOY)
    assert ended.code == 0 and "later: edgepipe history add runs/" in ended.err


def test_the_winner_is_installed_with_its_manifest(workspace: Workspace) -> None:
    local = workspace.result()["targets"]["local"]
    current = workspace.folder / "installed" / "local" / "current"
    manifest = json.loads((current / "manifest.json").read_text())
    variant = local["winner"]["variant"]
    assert (
        manifest["sha256"] == local["installed"]["digest"] == local["encoded"]["variants"][variant]["digest"]
    )
    assert manifest["labels"] == ["setosa", "versicolor", "virginica"]
    assert manifest["inputs"][0]["shape"] == [1, 4]
    said = workspace.run("status", "--json").json
    assert said["manifest"] == manifest and said["model_ok"] is True
    (current / "model.tflite").write_bytes(b"something else")
    assert workspace.run("status", "--json").json["model_ok"] is False
    assert workspace.run(*DEPLOY).code == 0
    assert workspace.run("status", "--json").json["model_ok"] is True


def test_a_second_run_only_measures_and_imports_no_tensorflow(workspace: Workspace) -> None:
    script = (
        "import sys, atexit; from pipeline.cli import main;"
        "atexit.register(lambda: print(sorted({'tensorflow', 'keras', 'sklearn'} & set(sys.modules)))); main()"
    )
    ended = workspace.run(*DEPLOY, program=("-c", script))
    assert ended.code == 0
    assert ended.out.splitlines()[-1] == "[]"
    assert [stage["cached"] for stage in workspace.result()["stages"]] == [True] * 5


@pytest.mark.parametrize(
    ("setting", "anew"),
    [
        ("gates.max_file_bytes=999999", []),
        ("measure.repetitions=4", []),
        ("prune.neuron.score=sum", []),
        ("convert.agreement_samples=40", ["encode"]),
        ("convert.rewrites=none", ["encode"]),
        ("convert.precision=float16", ["convert", "encode"]),
        ("prune.allocation=global", ["prune", "convert", "encode"]),
        ("metric.source=mse", ["train", "prune", "convert", "encode"]),
        ("train.epochs=16", ["train", "prune", "convert", "encode"]),
        ("data.seed=1", ["data", "train", "prune", "convert", "encode"]),
    ],
)
def test_changing_one_key_repeats_only_what_depends_on_it(
    workspace: Workspace, setting: str, anew: list[str]
) -> None:
    steps = workspace.run(*DEPLOY, "--set", setting, "--dry-run", "--json").json["steps"]
    host = [step for step in steps if step["stage"] in ("data", "train", "prune", "convert", "encode")]
    assert [step["stage"] for step in host if step["from"].startswith("anew")] == anew


def test_what_the_classes_are_called_is_trained_into_nothing(workspace: Workspace) -> None:
    ended = workspace.run(*DEPLOY, "--set", "data.labels=[a, b, c]", "--json")
    assert [stage["stage"] for stage in ended.json["stages"] if not stage["cached"]] == ["data"]


def test_a_models_local_imports_are_part_of_its_key(workspace: Workspace) -> None:
    sizes = workspace.folder / "sizes.py"
    before = sizes.read_text()
    try:
        sizes.write_text("WIDTH = 33\n")
        steps = workspace.run(*DEPLOY, "--dry-run", "--json").json["steps"]
        assert [step["from"].split(",")[0] for step in steps[:4]] == ["cache", "anew", "anew", "anew"]
    finally:
        sizes.write_text(before)


def test_json_is_one_document(workspace: Workspace) -> None:
    ended = workspace.run(*DEPLOY, "--json")
    assert ended.json["targets"]["local"]["exit_code"] == 0
    assert ended.json == workspace.result()


def test_three_mistakes_are_told_at_once_before_any_work(workspace: Workspace) -> None:
    (workspace.folder / "bad.yaml").write_text(
        "name: bad\nmodel: {source: model.py:biuld}\ndata: {source: sklearn:iris}\n"
        "prune:\n  metod: hessian\n  sparsity: 2\n"
    )
    ended = workspace.run("deploy", "bad.yaml", "--target", "rpi44")
    assert ended.code == 2
    assert ended.err.splitlines() == [
        "bad.yaml:2: model.source: model.py has no function 'biuld'; did you mean 'build'?",
        "bad.yaml:5: prune.metod: unknown key; did you mean 'method'?",
        "bad.yaml:6: prune.sparsity: input should be less than 1, received 2",
        "rpi44: no such target; did you mean 'rpi4'?",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("deploy", "nowhere.yaml"), "nowhere.yaml: no such plan"),
        (("deploy", "plan.yaml", "--tarfet", "local"), "No such option"),
        (("deploy", "plan.yaml", "--set", "prune.sparsity=1.5"), "--set prune.sparsity=1.5"),
        (("prune", "none.keras", "--data", "none.npz", "--out", "x.keras"), "no such file"),
        (
            ("convert", "model.py", "--out", "x.tflite"),
            "expected file.py:function or a .keras file or a .h5 file",
        ),
        (("measure", "plan.yaml"), "not a TFLite file"),
        (("compare", "runs/latest", "runs/none"), "runs/none: cannot be read"),
        (("devices", "up", "virtual-rpi44"), "no such emulated device; did you mean 'virtual-rpi4'?"),
    ],
)
def test_wrong_input_is_said_and_ends_with_2(
    workspace: Workspace, arguments: tuple[str, ...], words: str
) -> None:
    ended = workspace.run(*arguments)
    assert ended.code == 2
    assert words in ended.err


def test_an_error_is_json_too(workspace: Workspace) -> None:
    ended = workspace.run("deploy", "nowhere.yaml", "--json")
    assert ended.code == ended.json["exit_code"] == 2
    assert "nowhere.yaml: no such plan" in ended.json["error"][0]


def write_unreachable(workspace: Workspace) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (workspace.folder / "targets").mkdir(exist_ok=True)
    (workspace.folder / "targets" / "gone.yaml").write_text(
        f"transport: ssh\nssh: {{host: 127.0.0.1, port: {port}, user: nobody}}\nworkdir: w\ninstall_path: i\n"
        "when_unreachable: plug it in\n"
    )


def test_a_host_that_is_down_ends_with_3_before_any_work(workspace: Workspace) -> None:
    write_unreachable(workspace)
    ended = workspace.run(*DEPLOY, "--target", "gone", "--set", "train.epochs=3")
    assert ended.code == 3
    assert "plug it in" in ended.out + ended.err
    found = workspace.result()
    assert found["stages"] == [] and found["targets"]["gone"]["error"]


def test_one_target_that_is_down_spoils_no_other(workspace: Workspace) -> None:
    write_unreachable(workspace)
    ended = workspace.run(*DEPLOY, "--target", "gone,local")
    assert ended.code == 3
    found = workspace.result()["targets"]
    assert found["gone"]["exit_code"] == 3 and found["local"]["exit_code"] == 0
    assert found["local"]["installed"]


def test_a_failed_gate_ends_with_1_and_installs_nothing(tmp_path: Path, home: Path) -> None:
    fresh = Workspace(tmp_path, home)
    ended = fresh.run(*DEPLOY, "--set", "gates.max_file_bytes=1000")
    assert ended.code == 1
    local = fresh.result()["targets"]["local"]
    assert local["winner"] is None and local["installed"] is None
    assert "max_file_bytes" in local["headline"] and "failed by" in local["headline"]
    assert not (tmp_path / "installed").exists()
    assert fresh.run("status", "--json").json["installed"] is False


def test_a_model_that_came_trained_is_not_trained_again(workspace: Workspace) -> None:
    ended = workspace.run(
        *("prune", "model.py:build", "--method", "magnitude", "--sparsity", "0.5"),
        *("--data", str(data_file(workspace)), "--out", "pruned.keras", "--json"),
    )
    assert ended.code == 0, ended.err
    script = "import keras; keras.saving.load_model('pruned.keras').save('came.h5')"
    assert workspace.run(program=("-c", script)).code == 0
    again = workspace.run(
        "prune", "came.h5", "--data", "data.npz", "--sparsity", "0", "--out", "again.keras", "--json"
    )
    assert again.json["metric_before"] == ended.json["metric_after"]


def data_file(workspace: Workspace) -> Path:
    from pipeline.models import data

    path = workspace.folder / "data.npz"
    data.load_bundled("iris", 0.3, 0).save(path)
    return path


def test_each_stage_alone_on_files(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    data_file(workspace)
    pruned = workspace.run(
        "prune",
        "model.py:build",
        "--method",
        "hessian",
        "--sparsity",
        "0.9",
        "--data",
        "data.npz",
        "--out",
        "p.keras",
    )
    assert pruned.code == 0, pruned.err
    assert "hidden1" in pruned.out and "before" in pruned.out
    converted = workspace.run("convert", "p.keras", "--target", "rpi4", "--out", "p.tflite", "--json")
    assert converted.code == 0, converted.err
    assert (
        converted.json["bytes"]
        == (workspace.folder / "p.tflite").stat().st_size
        < converted.json["dense_bytes"]
    )
    assert {each["encoding"] for each in converted.json["encodings"]} & {"fc_unstructured", "fc_1x4"}
    measured = workspace.run(
        "measure", "p.tflite", "--set", "repetitions=2", "--set", "min_seconds=0", "--json"
    )
    assert measured.code == 0, measured.err
    assert measured.json["summary"]["p50_ms"]["value"] > 0
    assert measured.json["validity"]["state"] in ("valid", "suspect")
    throttled = workspace.folder / "sys/devices/platform/soc/soc:firmware/get_throttled"
    throttled.parent.mkdir(parents=True)
    throttled.write_text("4")
    monkeypatch.setenv(ROOT_VARIABLE, str(workspace.folder))
    quick = ("repetitions=2", "min_seconds=0", "max_seconds=0", "retries=1", "cool_down_seconds=0")
    measured = workspace.run(
        "measure", "p.tflite", *(word for each in quick for word in ("--set", each)), "--json"
    )
    assert measured.code == 3 and measured.json["summary"] is None
    (before,) = measured.json["invalid_sessions"]
    assert before["measurement"]["repetitions"][0]["samples_ns"]
    assert (
        "throttled" in before["validity"]["reasons"][0] and "invalid: the board was throttled" in measured.err
    )


def test_compare_sets_two_runs_side_by_side(workspace: Workspace) -> None:
    assert workspace.run(*DEPLOY).code == 0
    one = os.readlink(workspace.folder / "runs" / "latest")
    assert workspace.run(*DEPLOY, "--set", "prune.sparsity=0.6").code == 0
    ended = workspace.run("compare", f"runs/{one}", "runs/latest")
    assert ended.code == 0, ended.err
    assert "sparse" in ended.out
    assert workspace.run("compare", f"runs/{one}", "runs/latest", "--json").json


@pytest.mark.parametrize("words", ["train: epoch 2", "convert ...", "local: measure: 4"])
def test_a_run_killed_at_any_stage_leaves_all_usable(tmp_path: Path, home: Path, words: str) -> None:
    own_home = tmp_path / "home"
    own_home.mkdir()
    (own_home / "bundles").symlink_to(os.readlink(home / "bundles"))
    (tmp_path / "work").mkdir()
    fresh = Workspace(tmp_path / "work", own_home)
    killed = fresh.interrupt_at(words, signal.SIGKILL, *DEPLOY, "--set", "train.epochs=4")
    assert killed.code == -signal.SIGKILL
    ended = fresh.run(*DEPLOY, "--set", "train.epochs=4")
    assert ended.code == 0, ended.err
    if words.startswith("local"):
        assert [stage["cached"] for stage in fresh.result()["stages"]] == [True] * 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_so_and_ends_with_130(workspace: Workspace, number: signal.Signals) -> None:
    ended = workspace.interrupt_at("local: measure: 2", number, *DEPLOY)
    assert ended.code == 130
    assert "interrupted" in ended.err and "Traceback" not in ended.err
    assert workspace.run(*DEPLOY).code == 0


def test_what_a_file_held_while_it_was_changed_is_not_remembered(workspace: Workspace) -> None:
    metric = workspace.folder / "metric.py"
    metric.write_text(
        "from pathlib import Path\n"
        "def score(y, p):\n"
        "    file = Path(__file__)\n"
        "    file.write_text(file.read_text() + '# another\\n')\n"
        "    return 0.5\n"
    )
    chosen = (
        "--set",
        "metric.source=metric.py:score",
        "--set",
        "metric.direction=higher",
        "--set",
        "train.loss=mse",
    )
    arguments = (*DEPLOY, *chosen, "--set", "train.when=never")
    ended = workspace.run(*arguments)
    assert ended.code == 2
    assert "was changed while the run read it" in ended.err


def test_what_was_measured_is_kept_when_judging_fails(workspace: Workspace) -> None:
    (workspace.folder / "moody.py").write_text(
        "import os\n"
        "def score(y, p):\n"
        "    if 'tensorflow' not in __import__('sys').modules:\n"
        "        raise RuntimeError('not on the device')\n"
        "    return 0.5\n"
    )
    chosen = (
        "--set",
        "metric.source=moody.py:score",
        "--set",
        "metric.direction=higher",
        "--set",
        "train.loss=mse",
    )
    arguments = (*DEPLOY, *chosen, "--set", "train.when=never")
    workspace.run(*arguments)
    ended = workspace.run(*arguments)
    assert ended.code == 2
    local = workspace.result()["targets"]["local"]
    assert "not on the device" in local["error"] and local["installed"] is None
    assert len(local["measurements"]["sparse"]["repetitions"]) == 2


def test_two_deploys_at_once_disturb_neither_the_store_nor_each_other(workspace: Workspace) -> None:
    both = [workspace.start(*DEPLOY, "--set", f"prune.sparsity={sparsity}") for sparsity in (0.35, 0.45)]
    ended = [("".join(process.communicate(timeout=300)), process.returncode) for process in both]
    for said, code in ended:
        assert code == 0 or (code == 3 and "wait for the other run" in " ".join(said.split())), said
    assert 0 in [code for _, code in ended]
    for sparsity in (0.35, 0.45):
        steps = workspace.run(*DEPLOY, "--set", f"prune.sparsity={sparsity}", "--dry-run", "--json").json[
            "steps"
        ]
        assert [step["from"] for step in steps[:4]] == ["cache"] * 4


def test_two_prunings_at_once_both_come_to_an_end(workspace: Workspace) -> None:
    both = [
        workspace.start("deploy", "plan.yaml", "--set", "prune.sparsity=0.7", "--dry-run", "--json")
        for _ in range(2)
    ]
    first, second = (process.communicate(timeout=120)[0] for process in both)
    assert json.loads(first) == json.loads(second)
    both = [
        workspace.start(
            "prune",
            "model.py:build",
            "--data",
            str(data_file(workspace)),
            "--sparsity",
            "0.3",
            "--out",
            f"{name}.keras",
        )
        for name in ("one", "two")
    ]
    for process in both:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err

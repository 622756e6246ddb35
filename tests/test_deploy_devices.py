"""`edgepipe deploy` over SSH to an emulated Raspberry Pi 4, and what happens when it misbehaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from targets import emulation
from targets.errors import TargetError
from targets.host_keys import parse_public_key
from tests.loopback_sshd import free_port
from tests.requirements_for_tests import skip_or_fail
from tests.workspace import ROOT, Workspace

pytestmark = pytest.mark.device
NAME = "virtual-rpi4"
DEPLOY = ("deploy", "plan.yaml", "--target", NAME)


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, home: Path, port: int) -> Iterator[Workspace]:
    try:
        emulation.up(NAME, port=port)
    except TargetError as error:
        skip_or_fail(str(error))
    workspace = Workspace(tmp_path_factory.mktemp("work"), home)
    (workspace.folder / "targets").mkdir()
    text = (ROOT / "targets" / f"{NAME}.yaml").read_text()
    (workspace.folder / "targets" / f"{NAME}.yaml").write_text(text.replace("port: 2224", f"port: {port}"))
    yield workspace
    emulation.down(NAME)


@pytest.fixture
def device(workspace: Workspace, port: int) -> Workspace:
    emulation.up(NAME, port=port)
    return workspace


def test_a_bare_device_is_provisioned_measured_and_gets_the_winner(device: Workspace) -> None:
    ended = device.run(*DEPLOY)
    assert ended.code == 0, ended.err
    assert "EMULATED" in ended.out
    found = device.result()["targets"][NAME]
    assert found["emulated"] and found["runtime"] == "ai-edge-litert"
    assert found["device"]["machine"] == "aarch64"
    assert found["environment"]["before"]["cpu"]["parts"] == ["0xd08"]
    assert found["agreement"]["agrees"]
    assert all(each["emulated"] for each in found["measurements"].values())
    said = device.run("status", "--target", NAME, "--json").json
    assert said["model_ok"] is True and said["manifest"]["sha256"] == found["installed"]["digest"]
    assert "emulated" in (device.folder / "runs" / "latest" / "report.html").read_text().lower()


def test_the_other_runtime_works_there_as_well(device: Workspace) -> None:
    place = device.folder / "targets" / "other.yaml"
    text = (device.folder / "targets" / f"{NAME}.yaml").read_text()
    place.write_text(text.replace("runtime: ai-edge-litert", "runtime: auto"))
    ended = device.run("deploy", "plan.yaml", "--target", "other")
    assert ended.code == 0, ended.err
    assert device.result()["targets"]["other"]["runtime"] == "tflite-runtime"


@pytest.mark.parametrize("runtime", ["ai-edge-litert", "tflite-runtime"])
@pytest.mark.parametrize("example", ["digits_lstm", "text"])
def test_recurrent_and_text_models_run_there_with_builtin_operators(
    device: Workspace, example: str, runtime: str
) -> None:
    place = device.folder / "targets" / "named.yaml"
    text = (device.folder / "targets" / f"{NAME}.yaml").read_text()
    place.write_text(text.replace("runtime: ai-edge-litert", f"runtime: {runtime}"))
    quick = (
        *("train.epochs=1", "train.batch_size=256", "prune.allocation=uniform"),
        *("prune.hessian.calibration_samples=64", "gates.max_metric_drop=0.5"),
        *("measure.repetitions=2", "measure.evaluation_samples=32", "measure.warmup_runs=1"),
        *("measure.warmup_seconds=0", "measure.min_samples=5", "measure.min_seconds=0"),
    )
    settings = [part for each in quick for part in ("--set", each)]
    ended = device.run("deploy", str(ROOT / "examples" / f"{example}.yaml"), "--target", "named", *settings)
    assert ended.code == 0, ended.out + ended.err
    found = device.result()["targets"]["named"]
    assert found["runtime"] == runtime and found["agreement"]["agrees"]
    assert found["installed"]


def test_absolute_figures_of_an_emulated_device_fail_no_gate_unless_the_plan_allows_it(
    device: Workspace,
) -> None:
    tight = ("--set", "gates.max_latency_ms.p50=0.000001")
    ended = device.run(*DEPLOY, *tight)
    assert ended.code == 0, ended.err
    (gate,) = [
        each
        for each in device.result()["targets"][NAME]["gates"]["sparse"]
        if each["name"] == "max_latency_ms.p50"
    ]
    assert gate["advisory"] and not gate["passed"]
    ended = device.run(*DEPLOY, *tight, "--set", "gates.emulated_counts=true")
    assert ended.code == 1
    assert device.result()["targets"][NAME]["installed"] is None


def test_a_device_that_vanishes_in_mid_measurement_ends_with_3_and_the_next_run_works(
    device: Workspace,
) -> None:
    process = device.start(*DEPLOY)
    assert process.stderr is not None
    for line in process.stderr:
        if f"{NAME}: measure: 5" in line:
            break
    for number in emulation.processes(NAME):
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            continue
    out, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    assert "Traceback" not in out + err
    found = device.result()["targets"][NAME]
    assert found["error"] and found["installed"] is None
    finished = [each["repetitions"] for each in found["measurements"].values()]
    assert any(finished) and found["environment"]["before"], "what was measured before that is kept"


def test_after_that_the_next_run_works(device: Workspace) -> None:
    ended = device.run(*DEPLOY)
    assert ended.code == 0, ended.err


def test_two_hosts_do_not_measure_at_once(device: Workspace) -> None:
    first = device.start(*DEPLOY, "--set", "measure.repetitions=12")
    assert first.stderr is not None
    for line in first.stderr:
        if f"{NAME}: measure: 1" in line:
            break
    second = device.run(*DEPLOY)
    out, err = first.communicate(timeout=300)
    assert second.code == 3 and "wait for the other run" in " ".join(second.out.split())
    assert first.returncode == 0, out + err


def test_an_unknown_host_key_is_refused_with_the_line_to_add(device: Workspace) -> None:
    known = device.home / "devices" / NAME / "known_hosts"
    kept = known.with_name("kept")
    shutil.copy(known, kept)
    try:
        line = known.read_text().split()
        known.write_text("")
        ended = device.run("status", "--target", NAME)
        assert ended.code == 3
        assert " ".join(line[1:3]) in ended.err
    finally:
        shutil.move(kept, known)


def test_measuring_one_file(device: Workspace) -> None:
    variants = device.result()["targets"][NAME]["encoded"]["variants"]
    digest = variants["sparse"]["digest"]
    model = device.home / "store" / "objects" / digest[:2] / f"{digest}.tflite"
    shutil.copy(model, device.folder / "model.tflite")
    settings = [
        part for each in ("repetitions=2", "min_seconds=0", "min_samples=5") for part in ("--set", each)
    ]
    ended = device.run("measure", "model.tflite", "--target", NAME, *settings, "--json")
    assert ended.code == 0, ended.err
    assert ended.json["emulated"] and json.dumps(ended.json)


def test_a_device_is_added_by_asking_it_and_accepted_by_trying_it(device: Workspace, port: int) -> None:
    keys = device.home / "devices" / NAME
    known = (keys / "known_hosts").read_text().split(" ", 1)[1].strip()
    arguments = ("targets", "add", "mine", f"pi@127.0.0.1:{port}", "--key-file", str(keys / "id_ed25519"))
    refused = device.run(*arguments)
    assert refused.code == 3 and not (device.folder / "targets" / "mine.yaml").exists()
    fingerprint = parse_public_key(known).fingerprint
    ended = device.run(*arguments, "--accept-host-key", fingerprint)
    assert ended.code == 0, ended.err
    text = (device.folder / "targets" / "mine.yaml").read_text()
    assert known in text and "core: arm " in text.replace("\n", " ") and "emulated: true" in text
    process = device.start("acceptance", "--target", "mine", "--plan", "plan.yaml", "--json")
    out, err = process.communicate(timeout=1200)
    assert process.returncode == 0, out + err
    findings = {each["what"]: each for each in json.loads(out)["findings"]}
    assert all(each["ok"] for each in findings.values())
    assert "nothing left but the installed model" in findings["clean"]["answer"]
    assert findings["second deploy"]["answer"].startswith("0 bytes sent")
    assert (
        "refused" in findings["wrong host key"]["answer"]
        and "cut after" in findings["cut in mid-push"]["answer"]
    )
    assert (device.folder / "runs" / "acceptance-mine.json").exists()


def test_nothing_of_ours_runs_on_the_device_afterwards(device: Workspace) -> None:
    commands = [Path(f"/proc/{number}/cmdline").read_bytes() for number in emulation.processes(NAME)]
    assert commands and not [each for each in commands if b"agent" in each]

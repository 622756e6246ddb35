"""`edgepipe deploy` to an emulated Android phone, which has no Python and no glibc; and which system calls it takes.

The emulator serves Arm calls by this machine's, so a filter on it would judge the emulator. It tells every call that
the Arm program makes instead, and these are held against what Android's sandbox allows an app on arm64.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.strict_yaml import read_yaml
from targets import emulation
from targets.device import open_device
from targets.errors import TargetError
from targets.target import TargetBase, target_model
from tests.android_sandbox import ALLOWED
from tests.loopback_adb import loopback_adb
from tests.loopback_sshd import free_port
from tests.requirements_for_tests import skip_or_fail
from tests.tflite_files import matrix_file
from tests.workspace import ROOT, Workspace

pytestmark = pytest.mark.device
NAME = "virtual-android"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Workspace]:
    port = free_port()
    try:
        emulation.up(NAME, port=port)
    except TargetError as error:
        skip_or_fail(str(error))
    workspace = Workspace(tmp_path_factory.mktemp("work"), home)
    (workspace.folder / "targets").mkdir()
    text = (ROOT / "targets" / f"{NAME}.yaml").read_text()
    (workspace.folder / "targets" / f"{NAME}.yaml").write_text(text.replace("port: 8022", f"port: {port}"))
    yield workspace
    emulation.down(NAME)


@pytest.fixture(scope="module")
def target(workspace: Workspace) -> TargetBase:
    return read_yaml(workspace.folder / "targets" / f"{NAME}.yaml", target_model())


def test_a_bare_phone_is_provisioned_measured_and_gets_the_winner(workspace: Workspace) -> None:
    process = workspace.start("deploy", "plan.yaml", "--target", NAME)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, out + err
    found = workspace.result()["targets"][NAME]
    assert found["provision"].startswith("portable: no bundle: the device has no 'python3'")
    assert (found["device"]["python"], found["device"]["libc"]) == (None, ["bionic", ""])
    assert found["environment"]["before"]["cpu"]["parts"] == ["0xd0b"]
    assert found["agreement"]["agrees"] and found["installed"]
    assert workspace.run("status", "--target", NAME, "--json").json["model_ok"] is True


def test_over_adb_the_same_phone_is_provisioned_and_measured(workspace: Workspace, tmp_path: Path) -> None:
    """Its shell and its files are reached from outside, by a daemon that stands in for the phone's."""
    user, place = 2000, "data/local/tmp"
    inside = max(emulation.processes(NAME))
    root = Path(f"/proc/{inside}/root")
    (root / place).mkdir(mode=0o771)
    os.chown(root / place, user, user)
    environment = ("env", "-i", "PATH=/system/bin", "HOME=/", "QEMU_CPU=cortex-a76")
    enter = (str(shutil.which("nsenter")), f"--target={inside}", "--mount", "--pid", "--root", "--wd=/")
    shell = (*environment, *enter, f"--setuid={user}", f"--setgid={user}", "/system/bin/sh")
    model = tmp_path / "model.tflite"
    model.write_bytes(matrix_file(np.ones((3, 4), np.float32), at="dense"))
    daemon = ("--root", str(root), "--user", str(user), "--", *shell)
    with loopback_adb(tmp_path, *daemon) as options:
        way = options.model_copy(update={"folder": f"/{place}"}).model_dump()
        fields = {"transport": "adb", "adb": way, "emulated": True, "runtime": "ai-edge-litert"}
        fields |= {"workdir": "edgepipe", "install_path": "edgepipe-model"}
        (workspace.folder / "targets" / "phone.yaml").write_text(yaml.safe_dump(fields))
        measured = workspace.run(
            "measure", str(model), "--target", "phone", "--set", "repetitions=2", "--json"
        )
        assert measured.code == 0, measured.err
        assert measured.json["measurement"]["repetitions"]
        held = root / place / "edgepipe"
        assert {each.stat().st_uid for each in held.rglob("*")} == {user}
        assert workspace.run("clean", "--target", "phone").code == 0
        assert not held.exists()


def test_nothing_but_what_came_with_it_serves(target: TargetBase) -> None:
    with open_device(NAME, target) as device:
        sent = device.provision(lambda text: None)
        assert sent.way == "portable"
        python = next(word for word in sent.python if word.endswith("bin/python3.11"))
        assert device.run([python, "-c", "1"], 60)[0] in (126, 127, 255), (
            "an ordinary glibc program does not start"
        )
        assert device.run(["sh", "-c", "[ -e /tmp ] || [ -e /bin ] || [ -e /lib ]"], 60)[0] == 1
        leaks = "import os, sys; sys.exit(any(name.startswith(('PYTHON', 'LD_')) for name in os.environ))"
        assert device.run([*sent.python, "-c", leaks], 60)[0] == 0


def test_measuring_makes_no_call_that_androids_sandbox_kills(
    workspace: Workspace, target: TargetBase
) -> None:
    root = workspace.home / "devices" / NAME / "rootfs"
    home = root / "data/data/com.termux/files/home"
    np.save(home / "inputs.npy", np.zeros((1, 4), np.float32))
    (home / "model.tflite").write_bytes(matrix_file(np.ones((3, 4), np.float32), at="dense"))
    with open_device(NAME, target) as device:
        sent = device.provision(lambda text: None)
        traced = ("env", "QEMU_STRACE=1", "QEMU_LOG_FILENAME=call-%d.log", *sent.python)
        device.ask_with(
            traced,
            "measure",
            300,
            lock=device.lock,
            bundle=sent.folder,
            runtime=sent.runtime,
            threads=2,
            variants={"one": "model.tflite"},
            inputs="inputs.npy",
            steps=[{"kind": "evaluate", "variant": "one", "outputs": "out.npy"}],
            protocol={},
            step_deadline_s=250,
        )
    said = [path.read_text(errors="replace") for path in home.glob("call-*.log")]
    made = {name for text in said for name in re.findall(r"^\d+ (\w+)\(", text, re.M)}
    assert len(said) > 1 and {"clone", "wait4", "mmap"} <= made, "the worker's calls are seen, too"
    assert made <= ALLOWED.keys(), made - ALLOWED.keys()
    assert not any("Unknown syscall" in text for text in said)

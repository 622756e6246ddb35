"""What a device is protected from: names that are commands, files that others may write, secrets where all can read."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from targets import privacy
from targets.device import Device, open_device
from targets.errors import TargetError
from targets.target import TargetBase, target_model
from targets.transports import ssh
from tests.loopback_sshd import loopback_sshd
from tests.test_transport_contract import NASTY_NAMES


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ssh.Options]:
    with loopback_sshd(tmp_path_factory.mktemp("sshd")) as options:
        yield options


def target(options: ssh.Options, folder: Path, **changes: object) -> TargetBase:
    fields: dict[str, Any] = {"transport": "ssh", "ssh": options.model_dump(), "python": sys.executable}
    fields |= {"workdir": str(folder / "work"), "install_path": str(folder / "installed")}
    return target_model().model_validate(fields | changes)


def put_and_install(device: Device, model: Path) -> Path:
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    place = device.push({digest: model})[digest]
    manifest = {"sha256": digest, "labels": ["$(touch pwned)"]}
    device.install(place, digest, manifest, None, 60)
    status = device.ask("status", install_path=device.target.install_path)[-1]
    assert status["model_ok"] is True
    return Path(place)


def below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if not path.is_symlink()]


def test_no_name_is_ever_a_command(server: ssh.Options, tmp_path: Path) -> None:
    nasty = [name for name in NASTY_NAMES if name != "~"]
    deep = Path(*nasty)
    model = tmp_path / "model.$(touch pwned);`id` 'x"
    model.write_bytes(b"a model")
    workdir, install_path = tmp_path / "work" / deep, tmp_path / "installed" / deep
    found = target(server, tmp_path, workdir=str(workdir), install_path=str(install_path))
    with open_device("board", found) as device:
        place = put_and_install(device, model)
        assert place.read_bytes() == b"a model"
        device.fetch(str(place), tmp_path / "back")
    assert (install_path / "current" / "model.tflite").read_bytes() == b"a model"
    names = {path.name for path in below(tmp_path / "work") if path.is_dir()}
    with open_device("board", found) as device:
        device.clean(installed=True)
    assert not workdir.exists() and not install_path.exists()
    assert names - set(nasty) <= {"agents", "objects", "outputs", "bundles"}
    assert not [path for path in (*below(tmp_path), *Path().iterdir()) if path.name == "pwned"]


def test_others_can_write_nothing_and_cannot_look_into_the_workdir(
    server: ssh.Options, tmp_path: Path
) -> None:
    model = tmp_path / "model.tflite"
    model.write_bytes(b"a model")
    with open_device("board", target(server, tmp_path)) as device:
        put_and_install(device, model)
    assert stat.S_IMODE((tmp_path / "work").stat().st_mode) == 0o700
    everything = [*below(tmp_path / "work"), *below(tmp_path / "installed")]
    assert len(everything) > 5
    assert not [path for path in everything if path.stat().st_mode & 0o022]
    # The application that uses the model may be another user's.
    installed = tmp_path / "installed" / "current" / "model.tflite"
    assert installed.stat().st_mode & 0o044 and installed.parent.stat().st_mode & 0o055


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder that is another user's")
def test_a_workdir_of_somebody_elses_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs").chmod(0o777)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    argv = ["sh", "-c", privacy._MAKE, "sh", str(tmp_path / "theirs")]
    assert subprocess.run(argv, user=4321, group=4321, capture_output=True, check=False).returncode
    assert (tmp_path / "theirs").stat().st_mode & 0o777 == 0o777


def test_our_own_workdir_is_closed_to_others(tmp_path: Path) -> None:
    from targets.transports import local

    (tmp_path / "ours").mkdir()
    (tmp_path / "ours").chmod(0o777)
    privacy.make_private(local.connect(local.Options()), str(tmp_path / "ours"))
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == 0o755
    with pytest.raises(TargetError, match="cannot be made"):
        privacy.make_private(local.connect(local.Options()), "/proc/none")


def test_root_is_told_what_that_means(
    server: ssh.Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def provide(*_: object) -> None:
        raise LookupError

    said: list[str] = []
    monkeypatch.setattr("targets.device.provide", provide)
    with open_device("board", target(server, tmp_path)) as device:
        with pytest.raises(LookupError):
            device.provision(said.append)
        assert device.probe.root == (os.geteuid() == 0) == (privacy.ROOT in said)


def test_no_word_of_a_password_is_repeated(tmp_path: Path) -> None:
    from pipeline import commands_targets, locate
    from pipeline.errors import UserError

    with pytest.raises(TargetError) as refused:
        commands_targets.add("board", "pi:swordfish@board")
    with pytest.raises(UserError) as overridden:
        locate.read_target("rpi4", host="pi:swordfish@board")
    (tmp_path / "t.yaml").write_text(
        "transport: ssh\nssh: {host: h, user: 'pi:swordfish'}\nworkdir: w\ninstall_path: i\n"
    )
    with pytest.raises(UserError) as written:
        locate.read_target(str(tmp_path / "t.yaml"))
    for error in (refused, overridden, written):
        assert "password" in str(error.value) and "swordfish" not in str(error.value)

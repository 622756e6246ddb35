"""Pushes that break, a small share of the benchmark's; and names, disks and folders that are not as one wishes them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks._broken_pushes import Account, break_in_process, break_over_ssh
from benchmarks.push import connected
from targets.errors import TargetError
from targets.transports import ssh
from tests.loopback_sshd import loopback_sshd


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ssh.Options]:
    with loopback_sshd(tmp_path_factory.mktemp("sshd"), sftp=False) as found:
        yield found


def test_a_push_broken_at_a_random_byte_is_healed_by_the_next(tmp_path: Path) -> None:
    account = Account()
    for seed in range(8):
        account.add(break_in_process(seed, tmp_path))
    assert set(account.broken.values()) == {8}
    assert (account.corrupt, account.unhealed) == (0, 0)
    assert account.resent <= 1 << 20


@pytest.mark.parametrize("seed", [0, 1])
def test_so_is_one_over_ssh(options: ssh.Options, tmp_path: Path, seed: int) -> None:
    account = break_over_ssh(seed, functools.partial(connected, options, tmp_path / "work dir"), tmp_path)
    assert sum(account.broken.values()) == 1
    assert (account.corrupt, account.unhealed) == (0, 0)
    assert account.resent <= 1 << 20


def test_names_are_names_and_nothing_else(options: ssh.Options, tmp_path: Path) -> None:
    folder = tmp_path.joinpath("two words", 'it\'s "$(touch pwned)"', "line\nbreak", "-rf", "`id`;*?[~")
    model = tmp_path / "model.tflite"
    model.write_bytes(b"model")
    digest = hashlib.sha256(b"model").hexdigest()
    with connected(options, folder / "workdir") as device:
        place = device.push({digest: model})[digest]
        event = device.install(place, digest, {"sha256": digest}, None, 0)
        assert Path(event["path"]).read_bytes() == b"model"
        device.clean(installed=True)
    assert list(folder.iterdir()) == []
    assert not list(Path.cwd().glob("pwned")) and not Path.home().joinpath("pwned").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount the disk that this tries to write to")
def test_a_read_only_home_is_a_sentence(options: ssh.Options, tmp_path: Path) -> None:
    with (
        _disk(tmp_path / "home", "ro,size=1m"),
        pytest.raises(TargetError, match="Read-only file system"),
        connected(options, tmp_path / "home" / "workdir"),
    ):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount the small disk that this would fill")
def test_a_disk_too_small_is_known_beforehand(options: ssh.Options, tmp_path: Path) -> None:
    model = tmp_path / "model.tflite"
    model.write_bytes(bytes(5 << 20))
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    with _disk(tmp_path / "home", "size=8m"), connected(options, tmp_path / "home" / "workdir") as device:
        with pytest.raises(TargetError, match=r"22 MB are needed in .*workdir, 8 MB are free") as caught:
            device.push({digest: model})
        assert "make room" in caught.value.remedy
        assert not (tmp_path / "home/workdir/objects").exists()


@contextlib.contextmanager
def _disk(folder: Path, options: str) -> Iterator[None]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)

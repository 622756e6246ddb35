"""The emulated devices: what must be said without one, and (marked `device`) a whole life of one."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from targets import emulation
from targets.emulation import machine
from targets.emulation.devices import DEVICES
from targets.errors import TargetError
from targets.transports import Transport, ssh
from tests.loopback_sshd import free_port
from tests.requirements_for_tests import skip_or_fail

NAME = "virtual-rpi4"
REPOSITORY = Path(__file__).parent.parent


@pytest.mark.parametrize("action", [emulation.up, emulation.down, emulation.status])
def test_an_unknown_name_lists_what_there_is(action: object) -> None:
    with pytest.raises(TargetError, match=f"'rpi99'.*{NAME}"):
        action("rpi99")  # type: ignore[operator]


@pytest.mark.parametrize("name", emulation.names())
def test_each_device_has_a_target_file_that_reaches_it(name: str, tmp_path: Path) -> None:
    target = yaml.safe_load((REPOSITORY / "targets" / f"{name}.yaml").read_text())
    options = ssh.Options.model_validate(target["ssh"])
    assert target["emulated"] is True
    assert (options.host, options.port, options.user) == ("127.0.0.1", DEVICES[name].port, DEVICES[name].user)


def test_each_device_has_a_port_of_its_own() -> None:
    ports = [device.port for device in DEVICES.values()]
    assert len(set(ports)) == len(ports)


def test_cpuinfo_names_each_core() -> None:
    blocks = DEVICES[NAME].cpuinfo().split("\n\n")
    assert len(blocks) == 4 + 1
    for index, block in enumerate(blocks[:4]):
        fields = dict(line.replace("\t", "").split(": ", 1) for line in block.splitlines())
        assert fields["processor"] == str(index)
        assert (fields["CPU implementer"], fields["CPU part"]) == ("0x41", "0xd08")
        assert fields["Features"].split() == ["fp", "asimd", "evtstrm", "crc32", "cpuid"]


def test_missing_packages_come_with_the_line_that_installs_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TargetError, match="mmdebstrap") as caught:
        machine.require_emulator()
    assert caught.value.remedy == f"run: {machine.APT_LINE}"


def test_who_is_not_root_learns_how_to_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEPIPE_HOME", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(TargetError, match="root") as caught:
        emulation.up(NAME)
    assert caught.value.remedy.endswith(f"-m targets.emulation up {NAME}")


def test_nothing_there_is_down(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEPIPE_HOME", str(tmp_path))
    assert emulation.status(NAME).state == "down"
    assert list(tmp_path.iterdir()) == []


# --- with a device


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[int]:
    """A state folder and a port of this test's own: nobody's running device is touched."""
    if os.geteuid() != 0:
        skip_or_fail("bringing a device up and down takes root")
    # Through a symbolic link, as home folders often are.
    (tmp_path / "real").mkdir()
    (tmp_path / "home").symlink_to("real")
    monkeypatch.setenv("EDGEPIPE_HOME", str(tmp_path / "home"))
    try:
        yield free_port()
    finally:
        emulation.down(NAME)


def log_in(port: int, home: Path) -> Transport:
    folder = home / "devices" / NAME
    keys = {"key_file": str(folder / "id_ed25519"), "known_hosts": str(folder / "known_hosts")}
    return ssh.connect(ssh.Options(host="127.0.0.1", port=port, user="pi", **keys))


def answer(device: Transport, *argv: str) -> str:
    done = device.run(argv, deadline_s=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().strip()


@pytest.mark.device
def test_the_life_of_a_device(port: int, tmp_path: Path) -> None:
    home = tmp_path / "home"
    folder = home / "devices" / NAME
    root = folder / "rootfs"

    # Two at once build one device, and it outlives both.
    script = f"from targets import emulation; emulation.up({NAME!r}, port={port})"
    sudo = os.environ | {"SUDO_UID": "1234", "SUDO_GID": "1234"}
    both = [subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY, env=sudo) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert {(folder / name).stat().st_uid for name in (".", "id_ed25519", "known_hosts")} == {1234}
    assert emulation.status(NAME).state == "up"
    built, first = root.stat().st_ino, min(emulation.processes(NAME))
    check_what_it_is(port, home)

    # Up again changes nothing.
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "geteuid", lambda: 1000)  # nor does it take root
        emulation.up(NAME, port=port)
    assert min(emulation.processes(NAME)) == first

    # A dead one is restarted as it was.
    kill()
    assert emulation.status(NAME).state == "broken"
    emulation.up(NAME, port=port)
    assert (emulation.status(NAME).state, root.stat().st_ino) == ("up", built)

    # One that does not start is built anew.
    kill()
    shutil.rmtree(root / "etc/ssh")
    emulation.up(NAME, port=port)
    assert emulation.status(NAME).state == "up"
    assert root.stat().st_ino != built

    # Down takes everything along, what a login left running too.
    device = log_in(port, home)
    answer(device, "sh", "-c", "setsid sleep 600 > /dev/null 2>&1 & cd /dev/shm && touch here")
    emulation.down(NAME)
    with pytest.raises(TargetError, match="connection lost"):
        device.run(["true"], deadline_s=30)
    device.close()
    assert emulation.processes(NAME) == []
    assert list((home / "devices").iterdir()) == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert emulation.status(NAME).state == "down"
    emulation.down(NAME)


def kill() -> None:
    for process in emulation.processes(NAME):
        with suppress(ProcessLookupError):  # they go with the first of them
            os.kill(process, signal.SIGKILL)


def check_what_it_is(port: int, home: Path) -> None:
    device = log_in(port, home)
    try:
        assert answer(device, "python3", "-c", "import platform; print(platform.machine())") == "aarch64"
        assert answer(device, "python3", "-c", "import sys; print(sys.version_info[:2])") == "(3, 11)"
        assert answer(device, "cat", "/proc/cpuinfo") == DEVICES[NAME].cpuinfo().strip()
        assert answer(device, "cat", "/sys/devices/system/cpu/possible") == "0-3"
        assert answer(device, "printenv", "QEMU_CPU") == "cortex-a72"
        assert answer(device, "id", "-u") == "1000"
        assert device.run(["python3", "-c", "import numpy"], deadline_s=60).returncode == 1
        # Relative paths are relative to the login folder, for files and commands alike.
        (home / "source").write_bytes(b"content")
        device.put(home / "source", "-new folder/-rf", deadline_s=60)
        assert answer(device, "cat", "/home/pi/-new folder/-rf") == "content"
        assert answer(device, "cat", "./-new folder/-rf") == "content"
        device.get("-new folder/-rf", home / "back", deadline_s=60)
        assert (home / "back").read_bytes() == b"content"
        with pytest.raises(TargetError, match="Permission denied"):
            device.put(home / "source", "/etc/source", deadline_s=60)
    finally:
        device.close()


@pytest.mark.device
def test_a_taken_port_is_said(port: int) -> None:
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(TargetError, match="Address already in use") as caught,
    ):
        emulation.up(NAME, port=port)
    assert "taken" in caught.value.remedy
    assert emulation.processes(NAME) == []

"""What only adb can do wrong: servers, clients, phones that are not there or not ready. Against the real adb server,
and for states that a stand-in phone cannot have, against one that says them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.locate import read_target
from targets.adb_phone import Phone
from targets.checkup import check_up
from targets.device import open_device
from targets.errors import TargetError
from targets.transports import adb
from tests.loopback_adb import ROOT, adb_server, loopback_adb, phone
from tests.loopback_sshd import free_port
from tests.requirements_for_tests import skip_or_fail
from tests.waiting import awaited

LISTING = "R58M1234               {state} usb:1-2 product:o1s model:SM_G991B device:o1s transport_id:1\n"
FEATURES = "host-serial:R58M1234:features"


@pytest.fixture(autouse=True)
def no_variable_of_the_users_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "ANDROID_SERIAL",
        "ADB_SERVER_SOCKET",
        "ANDROID_ADB_SERVER_ADDRESS",
        "ANDROID_ADB_SERVER_PORT",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[adb.Options]:
    with loopback_adb(tmp_path_factory.mktemp("adb")) as found:
        yield found


@contextmanager
def server_that_says(answers: Mapping[str, str]) -> Iterator[adb.Options]:
    """An adb server with these answers; to everything else it says FAIL."""

    def serve(connection: socket.socket) -> None:
        with connection:
            while length := connection.recv(4, socket.MSG_WAITALL):
                request = connection.recv(int(length, 16), socket.MSG_WAITALL).decode()
                said = answers.get(request)
                if request.startswith("host:transport:") and said is not None:
                    connection.sendall(b"OKAY")
                    continue
                text = (said if said is not None else f"device '{request}' not found").encode()
                connection.sendall((b"OKAY" if said is not None else b"FAIL") + b"%04x" % len(text) + text)
                return

    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    serve(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield adb.Options(server=f"127.0.0.1:{server.getsockname()[1]}", connect_timeout_s=1)
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def refusal(options: adb.Options) -> TargetError:
    with pytest.raises(TargetError) as caught:
        adb.connect(options)
    return caught.value


def with_state(state: str) -> TargetError:
    with server_that_says({"host:devices-l": LISTING.format(state=state)}) as options:
        return refusal(options)


# --- the server


def test_a_server_that_does_not_run_is_started(tmp_path: Path) -> None:
    with adb_server(tmp_path) as options:
        assert "no device" in refusal(options).message
        with socket.create_connection(options.address):
            pass


def test_without_a_client_the_package_is_named() -> None:
    error = refusal(adb.Options(server=f"127.0.0.1:{free_port()}", client="/nowhere/adb"))
    assert "no adb server runs at 127.0.0.1" in error.message
    assert "apt-get install adb" in error.remedy


def test_a_client_that_fails_is_quoted(tmp_path: Path) -> None:
    client = tmp_path / "adb"
    client.write_text("#!/bin/sh\necho cannot bind >&2\nexit 1\n")
    client.chmod(0o755)
    assert (
        "cannot bind" in refusal(adb.Options(server=f"127.0.0.1:{free_port()}", client=str(client))).message
    )


def test_a_server_elsewhere_is_not_started() -> None:
    error = refusal(adb.Options(server=f"127.0.0.2:{free_port()}", client="/nowhere/adb"))
    assert "cannot be reached: Connection refused" in error.message
    assert "adb.server" in error.remedy


def test_a_silent_server_meets_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        error = refusal(adb.Options(server=address, connect_timeout_s=0.2))
    assert "did not answer within 0.2 s" in error.message


def test_another_server_on_that_port_is_no_traceback() -> None:
    def greet() -> None:
        for _ in range(2):
            with server.accept()[0] as connection:
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=greet)
        thread.start()
        error = refusal(adb.Options(server=f"127.0.0.1:{server.getsockname()[1]}", connect_timeout_s=5))
        thread.join()
    assert "not the adb server's protocol" in error.message or "closed the connection" in error.message


@pytest.mark.parametrize(
    ("variables", "address"),
    [
        ({}, ("127.0.0.1", 5037)),
        ({"ADB_SERVER_SOCKET": "tcp:lab:6000", "ANDROID_ADB_SERVER_PORT": "1"}, ("lab", 6000)),
        ({"ADB_SERVER_SOCKET": "tcp:6000"}, ("127.0.0.1", 6000)),
        ({"ANDROID_ADB_SERVER_ADDRESS": "lab", "ANDROID_ADB_SERVER_PORT": "6000"}, ("lab", 6000)),
    ],
)
def test_the_server_is_where_the_client_finds_it(
    variables: dict[str, str], address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert adb.Options().address == address
    assert adb.Options(server="[::1]:7000").address == ("::1", 7000)


def test_a_variable_that_is_no_address_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "usual")
    assert "ANDROID_ADB_SERVER_PORT" in refusal(adb.Options()).remedy


@pytest.mark.parametrize(
    "wrong", [{"serial": "-s"}, {"serial": "a b"}, {"serial": ""}, {"server": "lab"}, {"folder": "relative"}]
)
def test_options_that_cannot_be_right_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        adb.Options.model_validate(wrong)


# --- which phone


def test_a_line_of_the_list_is_read() -> None:
    assert Phone.parse(LISTING.format(state="device")) == Phone("R58M1234", "device", "SM G991B")
    refused = (
        "R58M1234  no permissions (user in plugdev group; are your udev rules wrong?); see [http://x] usb:1-2"
    )
    assert Phone.parse(refused).state.startswith("no permissions (user")
    assert Phone.parse(refused).state.endswith("see [http://x]")


def test_of_several_phones_one_must_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with adb_server(tmp_path) as options, phone() as first, phone() as second:
        for serial in (first, second):
            adb.connect(options.model_copy(update={"serial": serial}))
        error = refusal(options)
        both = ", ".join(f"{serial} (Stand In)" for serial in sorted([first, second]))
        assert error.message.endswith(both)
        assert "adb.serial" in error.remedy
        monkeypatch.setenv("ANDROID_SERIAL", second)
        assert adb.connect(options).run(["true"], deadline_s=30).returncode == 0
        other = refusal(options.model_copy(update={"serial": "R58M1234"}))
        assert f"no device R58M1234; those there: {both}" in other.message


def test_the_only_phone_needs_no_name(options: adb.Options) -> None:
    adb.connect(options)
    assert (
        adb.connect(options.model_copy(update={"serial": None})).run(["true"], deadline_s=30).returncode == 0
    )


def test_a_network_phone_that_is_away(options: adb.Options) -> None:
    error = refusal(options.model_copy(update={"serial": f"127.0.0.1:{free_port()}"}))
    assert "could not connect" in error.message and "refused" in error.message
    assert "adb pair" in error.remedy


def test_a_phone_that_wants_to_be_asked_first(tmp_path: Path) -> None:
    with loopback_adb(tmp_path, "--unauthorized") as options:
        error = refusal(options)
    assert "unauthorized" in error.message
    assert "accept the dialog" in error.remedy


def test_a_phone_that_stays_offline() -> None:
    error = with_state("offline")
    assert "offline" in error.message and "plug it in again" in error.remedy


def test_a_phone_that_the_system_keeps_from_us() -> None:
    error = with_state("no permissions (missing udev rules?)")
    assert "plugdev" in error.remedy


def test_a_phone_in_its_boot_loader() -> None:
    assert "cannot be used: bootloader" in with_state("bootloader").message


def test_an_android_too_old_for_exit_codes() -> None:
    answers = {"host:devices-l": LISTING.format(state="device"), FEATURES: "cmd"}
    with server_that_says(answers) as options:
        assert "Android 7" in refusal(options).remedy


# --- a phone that goes


def test_a_phone_that_goes_ends_the_command(tmp_path: Path) -> None:
    with adb_server(tmp_path) as server, phone() as serial:
        connected = adb.connect(server.model_copy(update={"serial": serial}))

        def unplug(line: bytes) -> None:
            subprocess.run(["kill", "-KILL", line.decode()], check=True)

        with pytest.raises(TargetError, match="connection lost"):
            # The daemon is the parent of its command.
            connected.run(["sh", "-c", "echo $PPID; cat"], deadline_s=30, on_line=unplug)
        with pytest.raises(TargetError, match=r"no longer at the adb server|offline"):
            connected.run(["true"], deadline_s=30)
        (tmp_path / "source").write_bytes(b"content")
        with pytest.raises(TargetError, match=r"no longer at the adb server|offline"):
            connected.put(tmp_path / "source", "there", deadline_s=30)


def test_a_server_that_ends(tmp_path: Path) -> None:
    with adb_server(tmp_path) as server, phone() as serial:
        options = server.model_copy(update={"serial": serial})
        connected = adb.connect(options)

        def stop(line: bytes) -> None:
            subprocess.run([options.client, "-P", str(options.address[1]), "kill-server"], check=True)

        with pytest.raises(TargetError, match="connection lost"):
            connected.run(["sh", "-c", "echo; cat"], deadline_s=30, on_line=stop)
        with pytest.raises(TargetError, match="cannot be reached"):
            connected.run(["true"], deadline_s=30)


def test_closing_cuts_what_is_under_way(options: adb.Options) -> None:
    connected = adb.connect(options)
    with pytest.raises(TargetError, match="the connection was closed"):
        connected.run(["sh", "-c", "echo; cat"], deadline_s=30, on_line=lambda line: connected.close())


# --- what lies on the phone


def test_nobody_else_may_write_what_we_put(options: adb.Options, tmp_path: Path) -> None:
    # The stand-in insists that it is so from the first byte on.
    (tmp_path / "source").write_bytes(b"content")
    connected = adb.connect(options)
    connected.put(tmp_path / "source", "new folder/file", deadline_s=30)
    folder = Path(options.folder, "new folder")
    assert (folder / "file").stat().st_mode & 0o777 == 0o644
    assert folder.stat().st_mode & 0o777 == 0o755
    connected.get("new folder/file", tmp_path / "back", deadline_s=30)
    assert (tmp_path / "back").read_bytes() == b"content"


def test_a_file_cut_off_does_not_stay(options: adb.Options, tmp_path: Path) -> None:
    host = (
        "import sys, os; from pathlib import Path; from targets.transports import adb;"
        "connected = adb.connect(adb.Options.model_validate_json(sys.argv[1]));"
        "connected.put(Path(sys.argv[2]), 'cut/file', deadline_s=600)"
    )
    os.mkfifo(tmp_path / "source")
    argv = [sys.executable, "-c", host, options.model_dump_json(), str(tmp_path / "source")]
    folder = Path(options.folder, "cut")
    with subprocess.Popen(argv, cwd=ROOT) as process, (tmp_path / "source").open("wb") as endless:
        endless.write(bytes(1 << 20))
        endless.flush()
        awaited(lambda: folder.is_dir() and any(folder.iterdir()))
        process.kill()
        process.wait()
    awaited(lambda: not list(folder.iterdir()))


def test_a_folder_that_is_not_there_is_said(options: adb.Options) -> None:
    connected = adb.connect(options.model_copy(update={"folder": "/no such folder"}))
    with pytest.raises(TargetError, match=r"adb\.folder"):
        connected.run(["true"], deadline_s=30)


def test_more_arguments_than_adb_takes_are_said(options: adb.Options) -> None:
    with pytest.raises(TargetError, match="65535"):
        adb.connect(options).run(["true", "x" * 70_000], deadline_s=30)


def test_androids_own_shell_takes_it_all(tmp_path: Path) -> None:
    mksh = shutil.which("mksh") or skip_or_fail("mksh, Android's shell, is missing: apt-get install mksh")
    with loopback_adb(tmp_path, mksh) as options:
        connected = adb.connect(options)
        words = ["it's", 'a "quote"', "$(touch pwned)", "line\nbreak", "-n", "back\\slash", "~", "\u00fc", ""]
        done = connected.run(["printf", "<%s>", *words], deadline_s=30)
        assert done.stdout.decode() == "".join(f"<{word}>" for word in words)
        assert connected.run(["no-such-program"], deadline_s=30).returncode == 127
        (tmp_path / "source").write_bytes(b"content")
        connected.put(tmp_path / "source", "-odd 'name'", deadline_s=30)
        assert (tmp_path / "-odd 'name'").read_bytes() == b"content"


# --- the target's file


def test_the_target_that_came_along_reaches_the_phone_named(options: adb.Options) -> None:
    target = read_target("phone-adb", host=options.serial or "")
    assert target.adb.serial == options.serial
    near = target.model_copy(update={"adb": options, "python": sys.executable})
    assert all(each.ok for each in check_up(near))
    with open_device("phone", near) as device:
        (place,) = device.push({sha256(b"content").hexdigest(): written(options, b"content")}).values()
        assert Path(options.folder, place).read_bytes() == b"content"
    assert Path(options.folder, "edgepipe").stat().st_mode & 0o777 == 0o700


def written(options: adb.Options, content: bytes) -> Path:
    path = Path(options.folder, "here.bin")
    path.write_bytes(content)
    return path

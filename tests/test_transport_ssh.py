"""What only SSH can do wrong: host keys, logins, networks. Against real servers and real dead sockets."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from pydantic import ValidationError

from targets.errors import TargetError
from targets.transports import ssh
from tests.loopback_sshd import free_port, loopback_sshd, make_key


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ssh.Options]:
    with loopback_sshd(tmp_path_factory.mktemp("sshd")) as found:
        yield found


@pytest.fixture(autouse=True)
def no_thread_outlives_a_test() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    # Paramiko calls its timer of the handshake off, and does not wait for its thread to end.
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
    assert set(threading.enumerate()) <= before


def changed(options: ssh.Options, **changes: object) -> ssh.Options:
    return ssh.Options.model_validate(options.model_dump() | changes)


def refusal(options: ssh.Options) -> TargetError:
    with pytest.raises(TargetError) as caught:
        ssh.connect(options)
    return caught.value


def works(options: ssh.Options) -> bool:
    connection = ssh.connect(options)
    try:
        return connection.run(["true"], deadline_s=30).returncode == 0
    finally:
        connection.close()


def fingerprint(public_key: Path) -> str:
    told = subprocess.run(["ssh-keygen", "-lf", str(public_key)], check=True, capture_output=True, text=True)
    return told.stdout.split()[1]


# --- host keys


def test_an_unknown_host_key_comes_with_its_line(options: ssh.Options, tmp_path: Path) -> None:
    new = changed(options, known_hosts=str(tmp_path / "known_hosts"))
    error = refusal(new)
    assert "unknown" in error.message
    assert fingerprint(Path(options.known_hosts).with_name("host_key.pub")) in error.message
    assert not (tmp_path / "known_hosts").exists()
    lines = error.remedy.splitlines()
    line = next(line for line in lines if line.startswith(f"[127.0.0.1]:{options.port} "))
    (tmp_path / "known_hosts").write_text(line + "\n")
    assert works(new)
    pin = next(line for line in lines if line.startswith("host_key: ")).removeprefix("host_key: ")
    assert works(changed(options, known_hosts="/nowhere", host_key=pin))


def test_a_changed_host_key_is_refused(options: ssh.Options, tmp_path: Path) -> None:
    other = make_key(tmp_path / "other")
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(f"[127.0.0.1]:{options.port} {other}\n")
    error = refusal(changed(options, known_hosts=str(known_hosts)))
    assert "has changed" in error.message
    assert fingerprint(tmp_path / "other.pub") in error.message
    assert fingerprint(Path(options.known_hosts).with_name("host_key.pub")) in error.message
    assert known_hosts.read_text() == f"[127.0.0.1]:{options.port} {other}\n"


def test_a_pinned_host_key_outranks_known_hosts(options: ssh.Options, tmp_path: Path) -> None:
    assert "has changed" in refusal(changed(options, host_key=make_key(tmp_path / "other"))).message


def test_a_hashed_known_hosts_file(options: ssh.Options, tmp_path: Path) -> None:
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(Path(options.known_hosts).read_text())
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(known_hosts)], check=True, capture_output=True)
    assert "127.0.0.1" not in known_hosts.read_text()
    assert works(changed(options, known_hosts=str(known_hosts)))


@pytest.mark.parametrize("text", ["", "ssh-ed25519", "ssh-ed25519 AAAA", "ssh-ed25519 ?", "no-kind AAAA"])
def test_a_host_key_that_is_none(options: ssh.Options, text: str) -> None:
    with pytest.raises(ValidationError, match="expected a public host key"):
        changed(options, host_key=text)


# --- reaching it


def test_a_refused_port(options: ssh.Options) -> None:
    assert "refused the connection" in refusal(changed(options, port=free_port())).message


def test_a_name_that_is_none(options: ssh.Options) -> None:
    assert "could not be resolved" in refusal(changed(options, host="x" * 64)).message


@contextmanager
def silent_server() -> Iterator[int]:
    """Accepts (the kernel does), then says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@contextmanager
def black_hole() -> Iterator[int]:
    """A full backlog: the kernel drops every further packet that asks for a connection."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        stack.enter_context(socket.create_connection(server.getsockname()))
        yield server.getsockname()[1]


@pytest.mark.parametrize("nobody", [silent_server, black_hole])
def test_nobody_answers(options: ssh.Options, nobody: object) -> None:
    with nobody() as port:  # type: ignore[operator]
        error = refusal(changed(options, port=port, connect_timeout_s=1))
    assert "did not answer within 1 s" in error.message


def test_a_server_of_another_kind(options: ssh.Options) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 200)

        thread = threading.Thread(target=answer)
        thread.start()
        error = refusal(changed(options, port=server.getsockname()[1]))
        thread.join()
    assert "broke off the SSH handshake" in error.message


# --- being let in


def test_a_key_the_device_does_not_know(options: ssh.Options, tmp_path: Path) -> None:
    make_key(tmp_path / "stranger")
    error = refusal(changed(options, key_file=str(tmp_path / "stranger")))
    assert f"did not let {options.user} in" in error.message
    assert "ssh-copy-id" in error.remedy


def test_no_key_at_all(options: ssh.Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    assert f"did not let {options.user} in" in refusal(changed(options, key_file=None)).message


def test_the_keys_of_the_home_folder(
    options: ssh.Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert options.key_file is not None
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/id_ed25519").write_text(Path(options.key_file).read_text())
    monkeypatch.setenv("HOME", str(tmp_path))
    assert works(changed(options, key_file=None))


def test_key_files_that_cannot_be_used(options: ssh.Options, tmp_path: Path) -> None:
    make_key(tmp_path / "locked", passphrase="correct horse")
    (tmp_path / "text").write_text("no key")
    (tmp_path / "empty").touch()
    assert options.key_file is not None
    expected = {
        str(tmp_path / "missing"): "cannot be read: No such file",
        str(tmp_path / "locked"): "needs a passphrase",
        str(tmp_path / "text"): "holds no usable private key",
        str(tmp_path / "empty"): "holds no usable private key",
        f"{options.key_file}.pub": "holds no usable private key",
    }
    for path, message in expected.items():
        error = refusal(changed(options, key_file=path))
        assert message in error.message
        assert path in error.message


# --- after the login


def test_a_connection_that_breaks_in_mid_run(options: ssh.Options) -> None:
    connection = ssh.connect(options)
    # The parent of a command is the server's process for this connection.
    with pytest.raises(TargetError, match="connection lost"):
        connection.run(["sh", "-c", "kill -KILL $PPID; cat"], deadline_s=60)
    with pytest.raises(TargetError, match="connection lost"):
        connection.run(["true"], deadline_s=60)
    connection.close()


def test_a_connection_that_breaks_while_we_send(options: ssh.Options) -> None:
    connection = ssh.connect(options)

    def chunks() -> Iterator[bytes]:
        yield bytes(1 << 16)
        connection._transport.packetizer.close()  # type: ignore[attr-defined]
        yield from itertools.repeat(bytes(1 << 16), 1000)

    with pytest.raises(TargetError, match="connection lost"):
        connection.run(["sh", "-c", "exec cat >/dev/null"], stdin=chunks(), deadline_s=60)
    connection.close()


def test_a_server_that_hangs_is_held_to_the_deadline(options: ssh.Options, tmp_path: Path) -> None:
    connection = ssh.connect(options)
    server = int(connection.run(["sh", "-c", "echo $PPID"], deadline_s=30).stdout)
    os.kill(server, signal.SIGSTOP)
    try:
        with pytest.raises(TargetError, match="within 1 s"):
            connection.run(["true"], deadline_s=1)
        with pytest.raises(TargetError, match="within 1 s"):
            connection.get("/etc/hostname", tmp_path / "hostname", deadline_s=1)
    finally:
        os.kill(server, signal.SIGCONT)
    assert list(tmp_path.iterdir()) == []
    assert connection.run(["echo", "back"], deadline_s=30).stdout == b"back\n"
    connection.close()


def test_a_closed_connection_says_so(options: ssh.Options, tmp_path: Path) -> None:
    connection = ssh.connect(options)
    connection.close()
    with pytest.raises(TargetError, match="connection lost"):
        connection.get("/etc/hostname", tmp_path / "hostname", deadline_s=30)


def test_a_server_that_refuses_sessions(tmp_path: Path) -> None:
    with loopback_sshd(tmp_path, "MaxSessions 0") as options:
        connection = ssh.connect(options)
        with pytest.raises(TargetError, match="the SSH server refused"):
            connection.run(["true"], deadline_s=30)
        connection.close()


def test_a_login_shell_that_greets(tmp_path: Path) -> None:
    greeting = """ForceCommand echo "Welcome! edgepipe-"; printf 1; eval "$SSH_ORIGINAL_COMMAND" """
    with loopback_sshd(tmp_path, greeting) as options:
        connection = ssh.connect(options)
        assert connection.run(["echo", "answer"], deadline_s=30).stdout == b"answer\n"
        # SFTP cannot start behind it; `cat` can.
        connection.put(tmp_path / "host_key.pub", str(tmp_path / "there"), deadline_s=30)
        connection.get(str(tmp_path / "there"), tmp_path / "back", deadline_s=30)
        assert (tmp_path / "back").read_bytes() == (tmp_path / "host_key.pub").read_bytes()
        connection.close()


def test_a_login_shell_that_runs_nothing(tmp_path: Path) -> None:
    with loopback_sshd(tmp_path, "ForceCommand echo This account is not available. >&2; exit 1") as options:
        connection = ssh.connect(options)
        with pytest.raises(TargetError, match="This account is not available") as caught:
            connection.run(["true"], deadline_s=30)
        assert "POSIX shell" in caught.value.remedy
        connection.close()


def test_a_file_is_sent_again_where_its_command_never_ran(tmp_path: Path) -> None:
    once = f'ForceCommand mkdir {tmp_path}/once 2>/dev/null && kill -9 $$; eval "$SSH_ORIGINAL_COMMAND"'
    with loopback_sshd(tmp_path, once, sftp=False) as options:
        connection = ssh.connect(options)
        connection.put(tmp_path / "host_key.pub", str(tmp_path / "there"), deadline_s=30)
        assert (tmp_path / "there").read_bytes() == (tmp_path / "host_key.pub").read_bytes()
        assert (tmp_path / "once").is_dir()
        connection.close()

"""Who lets whom in: jump hosts, kinds of host keys, certificates, agents and passphrases. Against real servers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from targets import questions, user_keys
from targets.errors import TargetError
from targets.host_keys import known_keys, parse_public_key
from targets.ssh_login import host_key_of, log_in
from targets.transports import ssh
from tests.loopback_sshd import free_port, loopback_sshd, make_key

# What `nc` is, where there is one.
RELAY = """
import os, socket, sys, threading
there = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def back():
    while data := there.recv(65536):
        os.write(1, data)
    os._exit(0)
threading.Thread(target=back).start()
while data := os.read(0, 65536):
    there.sendall(data)
os._exit(0)
"""


@dataclass(frozen=True)
class Server:
    """A running server: its files, and how to log in."""

    folder: Path
    options: ssh.Options

    def but(self, **changes: object) -> ssh.Options:
        return ssh.Options.model_validate(self.options.model_dump() | changes)

    @property
    def name(self) -> str:
        return f"[127.0.0.1]:{self.options.port}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With host keys of two kinds, and a certificate for one of them."""
    folder = tmp_path_factory.mktemp("server")
    keygen("-t", "rsa", "-b", "2048", "-N", "", "-f", str(folder / "rsa_key"))
    keygen("-t", "ed25519", "-N", "", "-f", str(folder / "certified"))
    keygen("-t", "ed25519", "-N", "", "-f", str(folder / "authority"))
    certify(folder, "-n", "127.0.0.1")
    settings = [f"HostKey {folder}/rsa_key", f"HostKey {folder}/certified"]
    with loopback_sshd(folder, *settings, f"HostCertificate {folder}/certified-cert.pub") as options:
        yield Server(folder, options)


def keygen(*words: str) -> None:
    subprocess.run(["ssh-keygen", "-q", *words], check=True, capture_output=True)


def certify(folder: Path, *words: str) -> None:
    public = str(folder / "certified.pub")
    keygen("-s", str(folder / "authority"), "-I", "board", "-h", *words, public)


def public(path: Path) -> str:
    return " ".join(path.read_text().split()[:2])


def works(options: ssh.Options) -> bool:
    connection = ssh.connect(options)
    try:
        return connection.run(["true"], deadline_s=30).returncode == 0
    finally:
        connection.close()


def refusal(options: ssh.Options) -> TargetError:
    with pytest.raises(TargetError) as caught:
        ssh.connect(options)
    return caught.value


def known(server: Server, folder: Path, *lines: str) -> ssh.Options:
    (folder / "known").write_text("\n".join(lines) + "\n")
    return server.but(known_hosts=str(folder / "known"))


# --- who are they


def test_the_kind_of_key_that_is_known_is_asked_for(server: Server, tmp_path: Path) -> None:
    assert works(known(server, tmp_path, f"{server.name} {public(server.folder / 'rsa_key.pub')}"))
    assert works(server.but(host_key=public(server.folder / "rsa_key.pub")))
    assert works(known(server, tmp_path, f"127.0.0.1 {public(server.folder / 'rsa_key.pub')}"))
    assert works(
        known(server, tmp_path, f"[127.*]:{server.options.port} {public(server.folder / 'rsa_key.pub')}")
    )


def test_a_key_of_a_kind_the_server_does_not_have_has_changed(server: Server, tmp_path: Path) -> None:
    keygen("-t", "ecdsa", "-N", "", "-f", str(tmp_path / "other"))
    error = refusal(known(server, tmp_path, f"{server.name} {public(tmp_path / 'other.pub')}"))
    assert "has changed" in error.message


def test_what_is_known_of_another_port_may_be_another_servers(server: Server, tmp_path: Path) -> None:
    options = known(server, tmp_path, f"127.0.0.1 {make_key(tmp_path / 'other')}")
    assert "is unknown" in refusal(options).message
    assert not host_key_of(options)[1]


def test_a_revoked_key_is_refused_whatever_else_is_known(server: Server, tmp_path: Path) -> None:
    key = public(server.folder / "rsa_key.pub")
    error = refusal(known(server, tmp_path, f"@revoked * {key}", f"{server.name} {key}"))
    assert "is revoked" in error.message
    authority = public(server.folder / "authority.pub")
    error = refusal(known(server, tmp_path, f"@cert-authority * {authority}", f"@revoked * {authority}"))
    assert "is revoked" in error.message


def test_an_authority_vouches_for_its_hosts(server: Server, tmp_path: Path) -> None:
    authority = public(server.folder / "authority.pub")
    assert works(known(server, tmp_path, f"@cert-authority 127.0.0.* {authority}"))
    error = refusal(known(server, tmp_path, f"@cert-authority * {make_key(tmp_path / 'another')}"))
    assert "certificate of an unknown authority" in error.message and authority in error.remedy
    assert "is unknown" in refusal(known(server, tmp_path, f"@cert-authority other {authority}")).message


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("-n", "elsewhere"), "it is for elsewhere, not for 127.0.0.1"),
        ((), "it is for no host"),
        (("-n", "127.0.0.1", "-V", "20200101:20200102"), "it has expired"),
    ],
)
def test_certificates_that_do_not_hold(tmp_path: Path, words: tuple[str, ...], reason: str) -> None:
    make_key(tmp_path / "certified")
    make_key(tmp_path / "authority")
    certify(tmp_path, *words)
    setting = (f"HostKey {tmp_path}/certified", f"HostCertificate {tmp_path}/certified-cert.pub")
    with loopback_sshd(tmp_path, *setting) as options:
        place = tmp_path / "known"
        place.write_text(f"@cert-authority * {public(tmp_path / 'authority.pub')}\n")
        server = Server(tmp_path, options)
        assert reason in refusal(server.but(known_hosts=str(place))).message


def test_the_key_of_a_new_device_can_be_looked_at(server: Server, tmp_path: Path) -> None:
    key, was_known = host_key_of(server.but(known_hosts=str(tmp_path / "none"), user="nobody-there"))
    assert not was_known and key.line in [public(path) for path in server.folder.glob("*.pub")]
    assert host_key_of(server.options)[1]
    with pytest.raises(TargetError, match="has changed"):
        host_key_of(server.but(host_key=make_key(tmp_path / "other")))


def test_a_line_of_known_hosts_that_is_none_spoils_no_other(server: Server, tmp_path: Path) -> None:
    good = parse_public_key(public(server.folder / "rsa_key.pub"))
    lines = [
        "# remark",
        "",
        "x",
        "@new a ssh-rsa AAAA",
        "h ssh-dss AAAA",
        "|1|?|? ssh-rsa AAAA",
        f"h {good.line} me@x",
    ]
    (tmp_path / "known").write_text("\n".join(lines))
    assert known_keys([tmp_path / "known", tmp_path / "none"], "h", "h").keys == [good]


def test_a_server_of_long_ago_is_told_what_it_lacks(tmp_path: Path) -> None:
    keygen("-t", "rsa", "-b", "2048", "-N", "", "-f", str(tmp_path / "old"))
    with loopback_sshd(tmp_path, f"HostKey {tmp_path}/old", "HostKeyAlgorithms ssh-rsa") as options:
        error = refusal(options)
        assert "too old" in error.message and "OpenSSH" in error.message and "offers ssh-rsa" in error.message
        assert "SHA-1" in error.remedy and "ssh-keygen -A" in error.remedy
    (tmp_path / "second").mkdir()
    with loopback_sshd(tmp_path / "second", "KexAlgorithms diffie-hellman-group14-sha1") as options:
        assert "for its key exchange" in refusal(options).message


# --- the way there


@pytest.fixture
def bastion(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "bastion").mkdir()
    with loopback_sshd(tmp_path / "bastion") as options:
        yield Server(tmp_path / "bastion", options)


def config_for(folder: Path, bastion: Server, *more: str) -> str:
    """An ssh_config that knows the jump host."""
    lines = [
        "Host bastion",
        "HostName 127.0.0.1",
        f"Port {bastion.options.port}",
        f"IdentityFile {bastion.options.key_file}",
        f"UserKnownHostsFile {bastion.options.known_hosts}",
        *more,
    ]
    (folder / "config").write_text("\n".join(lines) + "\n")
    return str(folder / "config")


def test_through_a_jump_host_whose_own_key_is_checked(
    server: Server, bastion: Server, tmp_path: Path
) -> None:
    config = config_for(tmp_path, bastion)
    options = server.but(ssh_config=config, proxy_jump="bastion")
    connection = ssh.connect(options)
    (tmp_path / "file").write_bytes(b"content" * 100_000)
    connection.put(tmp_path / "file", str(tmp_path / "there"), deadline_s=30)
    assert (tmp_path / "there").read_bytes() == b"content" * 100_000
    # What the device sees is the jump host's connection: the server's process for it runs beside ours.
    port = connection.run(["sh", "-c", 'echo "$SSH_CONNECTION"'], deadline_s=30).stdout.split()[3]
    assert int(port) == server.options.port
    connection.close()
    Path(bastion.options.known_hosts or "").write_text(f"{bastion.name} {make_key(tmp_path / 'other')}\n")
    error = refusal(options)
    assert "has changed" in error.message and bastion.name in error.message


def test_through_two_jump_hosts(server: Server, bastion: Server, tmp_path: Path) -> None:
    again = ["Host again", "HostName localhost", *_lines_of(bastion), f"HostKeyAlias {bastion.name}"]
    options = server.but(ssh_config=config_for(tmp_path, bastion, *again), proxy_jump="bastion,again")
    assert works(options)


def _lines_of(server: Server) -> list[str]:
    options = server.options
    return [
        f"Port {options.port}",
        f"IdentityFile {options.key_file}",
        f"UserKnownHostsFile {options.known_hosts}",
    ]


def test_a_device_that_the_jump_host_cannot_reach(server: Server, bastion: Server, tmp_path: Path) -> None:
    config = config_for(tmp_path, bastion)
    error = refusal(server.but(ssh_config=config, proxy_jump="bastion", port=free_port()))
    assert "the jump host could not reach 127.0.0.1" in error.message
    assert "could not be resolved" in refusal(server.but(ssh_config=config, proxy_jump="x" * 64)).message


def test_through_a_proxy_command(server: Server, tmp_path: Path) -> None:
    ours = {"host": "alias", "port": None, "ssh_config": str(tmp_path / "config")}
    (tmp_path / "netcat").write_text(RELAY)
    (tmp_path / "config").write_text(
        f"HostName 127.0.0.1\nPort {server.options.port}\nProxyCommand {sys.executable} {tmp_path}/netcat %h %p\n"
    )
    assert works(server.but(**ours))
    (tmp_path / "config").write_text("ProxyCommand sh -c 'echo no way there >&2'\n")
    assert "no way there" in refusal(server.but(**ours)).message
    (tmp_path / "config").write_text("ProxyCommand no-such-program\n")
    assert "could not be started: no-such-program" in refusal(server.but(**ours)).message


# --- who are we


@pytest.fixture
def locked(server: Server, tmp_path: Path) -> Iterator[Path]:
    """A key that the server knows, with a passphrase."""
    path = tmp_path / "locked"
    before = (server.folder / "authorized_keys").read_text()
    (server.folder / "authorized_keys").write_text(before + make_key(path, passphrase="correct horse") + "\n")
    yield path
    (server.folder / "authorized_keys").write_text(before)
    user_keys._unlocked.clear()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What somebody types at the terminal."""
    answers: list[str] = []
    monkeypatch.setattr(questions, "somebody_is_there", lambda: True)
    monkeypatch.setattr(questions.getpass, "getpass", lambda prompt: answers.pop(0))
    return answers


def test_a_passphrase_is_asked_for_once(server: Server, locked: Path, terminal: list[str]) -> None:
    terminal += ["wrong", "", "correct horse"]
    assert works(server.but(key_file=str(locked)))
    assert terminal == []
    assert works(server.but(key_file=str(locked)))
    assert "correct horse" not in repr(user_keys._unlocked)


def test_a_passphrase_that_nobody_knows(server: Server, locked: Path, terminal: list[str]) -> None:
    terminal += ["swordfish"] * 3
    error = refusal(server.but(key_file=str(locked)))
    assert "stays locked" in error.message and "swordfish" not in str(error)


def test_where_nobody_can_be_asked_a_locked_key_is_an_error(server: Server, locked: Path) -> None:
    error = refusal(server.but(key_file=str(locked)))
    assert "needs a passphrase, and there is no terminal" in error.message
    assert f"ssh-add {locked}" in error.remedy


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    socket = str(tmp_path / "agent")
    with subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        monkeypatch.setenv("SSH_AUTH_SOCK", socket)
        yield socket
        process.terminate()


def add_to_agent(path: Path, passphrase: str = "") -> None:
    answers = {"SSH_ASKPASS": str(path.with_name("answer")), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ":0"}
    path.with_name("answer").write_text(f"#!/bin/sh\necho '{passphrase}'\n")
    path.with_name("answer").chmod(0o700)
    subprocess.run(["ssh-add", "-q", str(path)], check=True, env={**os.environ, **answers})


def test_a_key_that_the_agent_holds_needs_no_passphrase(
    server: Server, locked: Path, agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "did not let" in refusal(server.but(key_file=None)).message
    add_to_agent(locked, "correct horse")
    assert works(server.but(key_file=None))
    assert works(server.but(key_file=str(locked)))
    locked.with_suffix(".pub").unlink()
    assert works(server.but(key_file=str(locked)))
    # IdentitiesOnly: the agent's other keys are not offered.
    make_key(tmp_path / "stranger")
    (tmp_path / "config").write_text(f"IdentitiesOnly yes\nIdentityFile {tmp_path}/stranger\n")
    assert "did not let" in refusal(server.but(key_file=None, ssh_config=str(tmp_path / "config"))).message


def test_a_locked_key_among_the_usual_ones_spoils_no_other(
    server: Server, locked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (tmp_path / ".ssh").mkdir()
    locked.rename(tmp_path / ".ssh/id_ed25519")
    error = refusal(server.but(key_file=None))
    assert "did not let" in error.message and "needs a passphrase" in error.remedy
    (tmp_path / ".ssh/id_rsa").write_text(Path(server.options.key_file or "").read_text())
    assert works(server.but(key_file=None))


def test_a_server_that_is_shown_too_many_keys(
    agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for number in range(3):
        make_key(tmp_path / f"stranger{number}")
        add_to_agent(tmp_path / f"stranger{number}")
    with loopback_sshd(tmp_path, "MaxAuthTries 2") as options:
        error = refusal(Server(tmp_path, options).but(key_file=None))
    assert "did not let" in error.message and "hung up after 2 keys: name the right one" in error.remedy


def test_a_server_that_asks_for_more_than_a_key(tmp_path: Path) -> None:
    with loopback_sshd(tmp_path, "PasswordAuthentication yes", only="password") as options:
        error = refusal(options)
        assert "does not let" in error.message and "password" in error.message


def test_a_closed_login_leaves_no_connection(server: Server) -> None:
    login = log_in(server.options)
    transport = login.transport
    login.close()
    login.close()
    assert not transport.is_active() and not transport.is_alive()

"""~/.ssh/config: what it says of a host, and what a target's own section makes of it. Nothing is connected."""

from __future__ import annotations

import getpass
from pathlib import Path

import pytest
from pydantic import ValidationError

from targets.errors import TargetError
from targets.ssh_config import lookup
from targets.ssh_options import Destination, Options, jump_host, route


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    return tmp_path / ".ssh" / "config"


def way(config: Path, text: str, host: str = "board", **options: object) -> list[Destination]:
    config.write_text(text)
    return list(route(Options.model_validate({"host": host, **options})))


def refusal(config: Path, text: str, host: str = "board", **options: object) -> str:
    with pytest.raises(TargetError) as caught:
        way(config, text, host, **options)
    return str(caught.value)


def test_an_alias_stands_for_all_that_its_host_says(config: Path, tmp_path: Path) -> None:
    (device,) = way(
        config,
        """
        Host other
            Port 1
        HOST board b?
          HostName = 192.168.1.20
          Port 2222   # of the router
          user "pi"
          IdentityFile ~/.ssh/%h_key
          IdentityFile %d/second
          IdentitiesOnly yes
          UserKnownHostsFile ~/a ~/b
          HostKeyAlias Board-7
          ConnectTimeout 3
          ServerAliveInterval 20
          SendEnv LANG
        Host *
          Port 99
          User nobody
        """,
    )
    assert (device.host, device.port, device.user) == ("192.168.1.20", 2222, "pi")
    assert device.key_files == (tmp_path / ".ssh/192.168.1.20_key", tmp_path / "second")
    assert device.only_these_keys and device.may_be_missing
    assert device.known_hosts[:2] == (tmp_path / "a", tmp_path / "b")
    assert (device.known_as, device.identity) == ("board-7", "Board-7")
    assert (device.connect_timeout_s, device.keepalive_s) == (3, 20)


def test_what_the_target_says_wins(config: Path, tmp_path: Path) -> None:
    ours = {"port": 7, "user": "me", "key_file": "~/k", "known_hosts": "~/h", "connect_timeout_s": 2}
    text = "Host board\n HostName h\n Port 1\n User u\n IdentityFile ~/i\n UserKnownHostsFile ~/u\n ConnectTimeout 9\n"
    (device,) = way(config, text + " ProxyJump elsewhere\n", proxy_jump="none", keepalive_s=4, **ours)
    assert (device.host, device.port, device.user, device.known_as) == ("h", 7, "me", "[h]:7")
    assert (device.key_files, device.known_hosts) == ((tmp_path / "k",), (tmp_path / "h",))
    assert (device.connect_timeout_s, device.keepalive_s, device.may_be_missing) == (2, 4, False)


def test_without_a_file_the_usual_values_hold(tmp_path: Path) -> None:
    for place in (None, str(tmp_path / "none")):
        (device,) = route(Options(host="board", ssh_config=place))
        assert (device.host, device.port, device.user) == ("board", 22, getpass.getuser())
        assert device.known_hosts[0].name == "known_hosts" and device.connect_timeout_s == 10


@pytest.mark.parametrize(
    ("patterns", "applies"),
    [
        ("*", True),
        ("b*d !board", False),
        ("!other *", True),
        ("BOARD", True),
        ("boar", False),
        ("b?ard", True),
    ],
)
def test_host_patterns(config: Path, patterns: str, applies: bool) -> None:
    assert way(config, f"Host {patterns}\n Port 5\n")[0].port == (5 if applies else 22)


@pytest.mark.parametrize(
    ("criteria", "applies"),
    [
        ("all", True),
        ("host real", True),
        ("host board", False),
        ("originalhost board user u*", True),
        ("!user u", False),
        ("user root localuser nobody-here", False),
        ("host other exec false", False),
    ],
)
def test_match_is_decided_where_it_can_be(config: Path, criteria: str, applies: bool) -> None:
    text = f"Host board\n HostName real\n User u\nMatch {criteria}\n Port 5\n"
    assert way(config, text)[0].port == (5 if applies else 22)


def test_a_match_that_would_have_to_run_something_is_refused_where_it_matters(config: Path) -> None:
    said = refusal(config, 'Match exec "touch pwned"\n Compression yes\n Port 5\n')
    assert f"{config}:1: Match exec" in said and "port" in said
    assert way(config, 'Match exec "touch pwned"\n Compression yes\n')[0].port == 22
    assert way(config, 'Host board\n Port 4\nMatch exec "touch pwned"\n Port 5\n')[0].port == 4
    assert not (config.parent / "pwned").exists()


def test_files_that_are_included(config: Path) -> None:
    (config.parent / "more").mkdir()
    (config.parent / "more" / "a.conf").write_text("Port 4\nHost board\n User a\nHost other\n User b\n")
    assert [(d.port, d.user) for d in way(config, "Include more/*.conf\nHost *\n User c\n")] == [(4, "a")]
    assert way(config, "Host other\n Include more/*.conf\nHost *\n User c\n")[0].user == "c"
    assert "include itself" in refusal(config, "Include config\n")


def test_a_file_that_others_may_write_is_refused(config: Path) -> None:
    config.write_text("Host *\n ProxyCommand evil\n")
    config.chmod(0o666)
    with pytest.raises(TargetError, match="or others may write it"):
        lookup(config, "board")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Port\n", "expected a keyword and its value"),
        ("Port 70000\n", "Port expects a whole number"),
        ("ConnectTimeout soon\n", "ConnectTimeout expects"),
        ('User "pi\n', "no closing quotation"),
        ("IdentityFile ~/%C\n", "%C"),
    ],
)
def test_what_cannot_be_followed_is_said(config: Path, text: str, words: str) -> None:
    assert words in refusal(config, text)


# --- the way there


def test_jumps_are_hosts_of_their_own(config: Path) -> None:
    text = """
    Host board
      ProxyJump first,me@second:2200
    Host first
      HostName 10.0.0.1
      ProxyJump zeroth
    Host second
      User not-me
      UserKnownHostsFile ~/of-second
      ProxyJump never-asked
    """
    found = way(config, text, port=9)
    assert [(d.host, d.port) for d in found] == [
        *[("zeroth", 22), ("10.0.0.1", 22)],
        *[("second", 2200), ("board", 9)],
    ]
    assert found[2].user == "me" and found[2].known_hosts[0].name == "of-second"


def test_a_jump_in_a_circle(config: Path) -> None:
    assert "in a circle" in refusal(config, "Host *\n ProxyJump bastion\n")
    assert len(way(config, "Host * !bastion\n ProxyJump bastion\n")) == 2


def test_the_first_of_jump_and_command_counts(config: Path) -> None:
    (device,) = way(config, "Host board\nProxyCommand nc %h %p\nProxyJump other\n")
    assert device.proxy_command == ("nc", "board", "22")
    assert len(way(config, "Host board\nProxyJump other\nProxyCommand nc %h %p\n")) == 2


def test_a_proxy_command_is_a_list_of_words(config: Path) -> None:
    text = "Host b*\n HostName %h.lab\n User u\n ProxyCommand exec ssh -W '[%h]:%p' \"a b\" %% %r@x\n"
    (device,) = way(config, text, port=3)
    assert device.proxy_command == ("ssh", "-W", "[board.lab]:3", "a b", "%", "u@x")
    # A name never becomes more than a word, and no shell sees it.
    (device,) = way(config, "ProxyCommand nc %h %p\n", host="$(touch${IFS}pwned)")
    assert device.proxy_command == ("nc", "$(touch${IFS}pwned)", "22")
    assert "needs a shell ('|')" in refusal(config, "ProxyCommand nc %h %p | tee log\n")


@pytest.mark.parametrize("name", ["-oProxyCommand=evil", "a b", "a\nb", "a\0b"])
@pytest.mark.parametrize("key", ["host", "user", "proxy_jump"])
def test_names_that_could_be_options_or_two_words(key: str, name: str) -> None:
    with pytest.raises(ValidationError, match="without spaces"):
        Options.model_validate({"host": "board", key: name})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("h", (None, "h", None)),
        ("u@h:2", ("u", "h", 2)),
        ("ssh://u@h:2/", ("u", "h", 2)),
        ("[::1]:5", (None, "::1", 5)),
        ("u@corp@h", ("u@corp", "h", None)),
    ],
)
def test_jump_hosts_as_they_are_written(text: str, found: tuple[object, ...]) -> None:
    options = jump_host(text)
    assert (options.user, options.host, options.port) == found


@pytest.mark.parametrize("text", ["", ":22", "h:0", "h:x", "-x", "u@-x", "a b"])
def test_jump_hosts_that_are_none(text: str) -> None:
    with pytest.raises(TargetError, match=r"expected \[user@\]host"):
        jump_host(text)

"""`edgepipe targets`: the list, a device that is new, a device that is looked over. Behind a real SSH server."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import acceptance, commands_targets, locate
from pipeline.errors import UserError
from pipeline.progress import Progress
from targets import checkup, questions
from targets.checkup import Finding, check_up
from targets.errors import TargetError
from targets.target import TargetBase, target_model
from targets.transports import adb, ssh
from tests.loopback_adb import loopback_adb
from tests.loopback_sshd import free_port, loopback_sshd, make_key
from tests.workspace import Workspace


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ssh.Options]:
    with loopback_sshd(tmp_path_factory.mktemp("sshd")) as options:
        yield options


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def fingerprint(options: ssh.Options) -> str:
    public = Path(options.known_hosts or "").with_name("host_key.pub")
    told = subprocess.run(["ssh-keygen", "-lf", str(public)], check=True, capture_output=True, text=True)
    return told.stdout.split()[1]


def add(options: ssh.Options, name: str = "board", **more: Any) -> None:
    host = f"{options.user}@127.0.0.1:{options.port}"
    commands_targets.add(name, host, **{"accept_host_key": "", "key_file": options.key_file, **more})


# --- the list


def test_the_list_holds_your_own_and_those_that_came_along(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "rpi4.yaml").write_text(
        "transport: local\nlocal: {}\nworkdir: w\ninstall_path: i\ncore: arm\n"
    )
    (tmp_path / "targets" / "bad.yaml").write_text("transport: pigeon\n")
    assert {"local", "rpi4", "rpi5", "rpi-zero2w", "linux", "bad"} <= locate.target_files().keys()
    context = type("Context", (), {"invoked_subcommand": None})()
    commands_targets.list_targets(context, as_json=True)
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert (rows["rpi4"]["transport"], rows["rpi4"]["core"], rows["rpi5"]["transport"]) == (
        "local",
        "arm",
        "ssh",
    )
    assert "pigeon" in rows["bad"]["description"]
    commands_targets.list_targets(context)
    assert "Raspberry Pi 5" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(path.stem for path in locate.target_files().values()))
def test_every_target_that_comes_along_can_be_read(name: str) -> None:
    found = locate.read_target(name)
    assert found.description and (found.transport == "local" or found.when_unreachable)


# --- a new device


def test_a_device_is_added_with_its_key_pinned(server: ssh.Options, tmp_path: Path) -> None:
    add(server, accept_host_key=fingerprint(server))
    path = tmp_path / "targets" / "board.yaml"
    found = locate.read_target("board")
    assert found.core == "x86" and found.runtime in ("ai-edge-litert", "tflite-runtime")
    options = found.ssh  # type: ignore[attr-defined]
    known_hosts = Path(server.known_hosts or "").read_text()
    assert known_hosts.split(" ", 1)[1].strip() == options.host_key
    assert (options.port, options.user, options.key_file) == (server.port, server.user, server.key_file)
    assert "pinned" in path.read_text() and "#" in path.read_text()
    connection = ssh.connect(options)
    connection.close()


def test_a_file_that_is_there_is_kept(server: ssh.Options, tmp_path: Path) -> None:
    (tmp_path / "targets").mkdir()
    path = tmp_path / "targets" / "board.yaml"
    path.write_text("mine")
    with pytest.raises(UserError, match="--force"):
        add(server, accept_host_key=fingerprint(server))
    assert path.read_text() == "mine"
    add(server, accept_host_key=fingerprint(server), force=True)
    assert "host_key" in path.read_text()
    assert [each.name for each in path.parent.iterdir()] == ["board.yaml"]


@pytest.mark.parametrize("name", ["", "../board", "a/b", "-x", ".hidden", "a b", "$(id)", "a\nb"])
def test_names_that_are_no_names(server: ssh.Options, name: str) -> None:
    with pytest.raises(UserError, match="expected a name of letters"):
        add(server, name)


def test_an_unknown_key_is_never_accepted_by_itself(
    server: ssh.Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TargetError, match="--accept-host-key") as caught:
        add(server)
    assert fingerprint(server) in caught.value.message
    with pytest.raises(TargetError, match="and not SHA256:other"):
        add(server, accept_host_key="SHA256:other")
    monkeypatch.setattr(questions, "somebody_is_there", lambda: True)
    for answer in ("no", "", "y"):
        monkeypatch.setattr(questions, "ask", lambda question, answer=answer: answer)
        with pytest.raises(TargetError, match="was not accepted"):
            add(server)
    assert not (tmp_path / "targets").exists()
    monkeypatch.setattr(questions, "ask", lambda question: "yes" if fingerprint(server) in question else "no")
    add(server)
    assert (tmp_path / "targets" / "board.yaml").exists()


def test_a_key_that_is_known_is_not_asked_about_and_a_changed_one_stops_everything(
    server: ssh.Options, tmp_path: Path
) -> None:
    (tmp_path / ".ssh").mkdir()
    known = tmp_path / ".ssh" / "known_hosts"
    known.write_text(Path(server.known_hosts or "").read_text())
    add(server)
    known.write_text(f"[127.0.0.1]:{server.port} {make_key(tmp_path / 'other')}\n")
    with pytest.raises(TargetError, match="has changed"):
        add(server, "again", accept_host_key=fingerprint(server))
    assert not (tmp_path / "targets" / "again.yaml").exists()


def test_a_phone_is_added_with_its_serial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "phone").mkdir()
    with loopback_adb(tmp_path / "phone") as options:
        # This machine has no /data/local/tmp, as every phone does.
        monkeypatch.setattr(adb, "Options", functools.partial(adb.Options, folder=options.folder))
        host = f"adb:{options.server}/{options.serial}"
        commands_targets.add("phone", host, "", None, None)
        written = locate.read_target("phone")
        assert written.transport == "adb" and written.core == "x86"
        found = written.adb  # type: ignore[attr-defined]
        assert (found.serial, found.server) == (options.serial, options.server)
        # The server's only phone: written down, for tomorrow there may be two.
        commands_targets.add("only", f"adb:{options.server}/", "", None, None)
        assert locate.read_target("only").adb == found  # type: ignore[attr-defined]
        with pytest.raises(UserError, match="are for SSH"):
            commands_targets.add("other", host, "", None, "jump")
    for wrong in ("adb:host/serial", "adb:a b", "adb:-s"):
        with pytest.raises(UserError, match="expected adb:SERIAL"):
            commands_targets.add("wrong", wrong, "", None, None)


# --- is it fit


def target(options: ssh.Options, **changes: object) -> TargetBase:
    fields = {"transport": "ssh", "ssh": options.model_dump(), "workdir": "w", "install_path": "i", **changes}
    return target_model().model_validate(fields)


def findings(options: ssh.Options, **changes: object) -> dict[str, Finding]:
    return {each.what: each for each in check_up(target(options, **changes))}


def test_a_device_that_is_fit_and_is_left_as_it_was(server: ssh.Options, tmp_path: Path) -> None:
    found = findings(server, workdir=str(tmp_path / "a b" / "$(touch pwned)"))
    assert all(each.ok for each in found.values()), found
    assert list(found) == ["reachable", "host key", "login", "system", "runtime", "workdir", "install_path"]
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_is_named_and_what_needs_it_is_not_asked(
    server: ssh.Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def but(**changes: object) -> ssh.Options:
        return ssh.Options.model_validate(server.model_dump() | changes)

    away = findings(but(port=free_port()))
    assert [(each.what, each.ok) for each in away.values()] == [("reachable", False)]
    unknown = findings(but(known_hosts=str(tmp_path / "none")))["host key"]
    assert not unknown.ok and fingerprint(server) in unknown.answer and "host_key: ssh-" in unknown.remedy
    make_key(tmp_path / "stranger")
    stranger = findings(but(key_file=str(tmp_path / "stranger")))
    assert not stranger["login"].ok and "system" not in stranger
    without = findings(server, python="no-such-python", workdir="/proc/here", install_path="/dev/null/x")
    assert without["runtime"].answer == "tflite-runtime, as portable"
    assert not without["workdir"].ok and not without["install_path"].ok
    unfit = findings(server, python="no-such-python", provision="bundle")["runtime"]
    assert not unfit.ok and "no 'no-such-python' that starts" in unfit.answer
    monkeypatch.setattr(checkup, "ROOM_BYTES", 1 << 60)
    assert "MB free" in findings(server)["workdir"].answer


# --- is all true that is promised of it


def trial(found: TargetBase) -> acceptance.Trial:
    plan, folder = locate.read_plan("pipeline.yaml")
    return acceptance.Trial("board", found, plan, folder, Progress(quiet=True))


def test_a_device_that_is_not_fit_is_not_tried(server: ssh.Options) -> None:
    found = acceptance.run(trial(target(server, python="no-such-python", provision="bundle")))
    assert [each.what for each in found if not each.ok] == ["runtime"] and "deploy" not in [
        each.what for each in found
    ]


def test_promises_that_need_no_model(server: ssh.Options, tmp_path: Path) -> None:
    tried = trial(target(server, workdir=str(tmp_path / "w"), python=sys.executable))
    assert acceptance._wrong_key(tried) == "refused, as it must be"
    assert acceptance._nothing_left(tried)


def test_an_exception_is_no_pass(server: ssh.Options, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(tried: acceptance.Trial) -> str:
        raise TargetError("it broke", "mend it")

    monkeypatch.setattr(acceptance, "STEPS", (("first", False, fail), ("second", True, fail)))
    found = acceptance.run(trial(target(server)))
    assert [(each.what, each.ok, each.remedy) for each in found[-1:]] == [("first", False, "mend it")]


def test_the_command_ends_with_3_when_the_device_is_not_fit(tmp_path: Path, home: Path) -> None:
    workspace = Workspace(tmp_path, home)
    (tmp_path / "targets").mkdir()
    about = f"ssh: {{host: 127.0.0.1, port: {free_port()}, user: u}}\nwhen_unreachable: switch it on\n"
    (tmp_path / "targets" / "away.yaml").write_text(f"transport: ssh\nworkdir: w\ninstall_path: i\n{about}")
    ended = workspace.run("targets", "check", "away")
    assert ended.code == 3
    said = " ".join(ended.out.split())
    assert "FAILED" in said and "refused the connection" in said and "switch it on" in said


def test_a_device_that_answers_otherwise_than_it_should_is_not_one_that_is_off(
    server: ssh.Options, tmp_path: Path
) -> None:
    (tmp_path / "changed").write_text(f"[127.0.0.1]:{server.port} {make_key(tmp_path / 'other')}\n")
    changed = server.model_copy(update={"known_hosts": str(tmp_path / "changed")})
    found = check_up(target(changed).model_copy(update={"when_unreachable": "switch it on"}))
    assert "has changed" in found[-1].answer
    assert "switch it on" not in found[-1].remedy

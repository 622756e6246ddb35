"""Many targets at once: results as they come, one device for one at a time, and one end for all."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from pathlib import Path

import pytest

from pipeline import deployment
from pipeline.at_once import AtOnce
from pipeline.progress import Progress
from targets import questions
from targets.errors import TargetError
from targets.target import TargetBase, device_of, target_model
from targets.transports import local, ssh
from tests.loopback_sshd import loopback_sshd, make_key

DEADLINE_S = 60.0


def target(folder: Path, server: ssh.Options | None = None) -> TargetBase:
    """This machine, as it is or behind a server."""
    way = {"transport": "local", "local": {}} if server is None else {"transport": "ssh", "ssh": dict(server)}
    places = {"workdir": str(folder / "work"), "install_path": str(folder / "installed")}
    return target_model().model_validate({**way, **places})


def test_results_come_as_the_work_ends() -> None:
    second_ended = threading.Event()

    def first() -> str:
        assert second_ended.wait(DEADLINE_S)
        return "first"

    order = []
    for name, result in AtOnce().run({"a": first, "b": lambda: "second"}):
        order.append((name, result))
        second_ended.set()
    assert order == [("b", "second"), ("a", "first")]


def test_one_that_raises_lets_the_others_finish() -> None:
    def broken() -> int:
        raise ZeroDivisionError

    came = []
    with pytest.raises(ZeroDivisionError):
        for name, _ in AtOnce().run({"a": broken, "b": lambda: 1, "c": lambda: 2}):
            came.append(name)
    assert sorted(came) == ["b", "c"]


def test_nothing_to_do() -> None:
    assert list(AtOnce().run({})) == []


def test_an_interruption_ends_what_runs_on_every_device(tmp_path: Path) -> None:
    at_once, begun = AtOnce(), threading.Barrier(3)
    told: dict[str, str] = {}

    def work(name: str, server: ssh.Options | None) -> None:
        try:
            with at_once.device(name, target(tmp_path / name, server)) as device:
                begun.wait(DEADLINE_S)
                device.run(["sleep", "600"], deadline_s=600)
        except TargetError as error:
            told[name] = str(error)

    def waited() -> None:
        begun.wait(DEADLINE_S)

    (tmp_path / "server").mkdir()
    with loopback_sshd(tmp_path / "server") as server, pytest.raises(KeyboardInterrupt):
        works = {name: functools.partial(work, name, way) for name, way in (("a", None), ("b", server))}
        for _ in at_once.run(works | {"c": waited}):
            raise KeyboardInterrupt
    assert told == {name: f"{name}: the run was interrupted" for name in works}


def test_a_way_that_breaks_while_it_is_closed_is_no_news(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_close(transport: local.LocalTransport) -> None:
        original(transport)
        raise OSError("the way there is gone")

    original = local.LocalTransport.close
    at_once, begun = AtOnce(), threading.Barrier(2)

    def work() -> None:
        with pytest.raises(TargetError), at_once.device("a", target(tmp_path)) as device:
            monkeypatch.setattr(local.LocalTransport, "close", broken_close)
            begun.wait(DEADLINE_S)
            try:
                device.run(["sleep", "600"], deadline_s=600)
            finally:
                monkeypatch.setattr(local.LocalTransport, "close", original)

    def waited() -> None:
        begun.wait(DEADLINE_S)

    with pytest.raises(KeyboardInterrupt), contextlib.closing(at_once.run({"a": work, "b": waited})) as came:
        for _ in came:
            raise KeyboardInterrupt


def test_who_begins_after_an_interruption_does_not_connect(tmp_path: Path) -> None:
    at_once = AtOnce()
    with contextlib.closing(at_once.run({"a": lambda: 1})) as came, pytest.raises(KeyboardInterrupt):
        next(came)
        came.throw(KeyboardInterrupt)
    with pytest.raises(TargetError, match="the run was interrupted"), at_once.device("b", target(tmp_path)):
        raise AssertionError("it was lent")
    assert list(tmp_path.iterdir()) == []


def test_a_passphrase_is_asked_by_the_main_thread_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "server").mkdir()
    with loopback_sshd(tmp_path / "server") as server:
        key = make_key(tmp_path / "locked", "secret")
        with (tmp_path / "server" / "authorized_keys").open("a") as stream:
            stream.write(f"{key}\n")
        options = server.model_copy(update={"key_file": str(tmp_path / "locked")})
        asked = []

        def answer(prompt: str) -> str:
            asked.append(threading.current_thread())
            return "secret"

        monkeypatch.setattr(questions.getpass, "getpass", answer)
        for stream_name in ("stdin", "stderr"):
            monkeypatch.setattr(getattr(sys, stream_name), "isatty", lambda: True, raising=False)
        targets = {name: target(tmp_path / name, options) for name in ("a", "b")}
        suits, unreachable = deployment.check_reachable(targets, Progress(quiet=True))
    assert unreachable == {} and sorted(suits) == ["a", "b"]
    assert asked == [threading.main_thread()]


def test_two_names_of_one_board_are_one_device(tmp_path: Path) -> None:
    options = ssh.Options(host="board", port=2222, ssh_config=None)
    other = options.model_copy(update={"user": "pi", "connect_timeout_s": 3.0})
    away = options.model_copy(update={"port": 2223})
    first, second, third = (device_of(target(tmp_path, each)) for each in (options, other, away))
    assert first == second != third


def test_two_targets_of_one_device_take_turns(tmp_path: Path) -> None:
    at_once = AtOnce()
    inside, most = list[str](), list[int]()

    def work(name: str) -> None:
        with at_once.device(name, target(tmp_path)) as device:
            inside.append(name)
            most.append(len(inside))
            device.ask("status", install_path=str(tmp_path / "installed"))
            inside.remove(name)

    names = [f"target {number}" for number in range(4)]
    list(at_once.run({name: functools.partial(work, name) for name in names}))
    assert most == [1] * 4

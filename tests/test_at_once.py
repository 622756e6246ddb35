"""Many targets at once: results as they come, one device for one at a time, and one end for all."""

from __future__ import annotations

import functools
import threading
from pathlib import Path

import pytest

from pipeline.at_once import AtOnce
from targets.errors import TargetError
from targets.target import TargetBase, target_model
from targets.transports import ssh
from tests.loopback_sshd import loopback_sshd

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

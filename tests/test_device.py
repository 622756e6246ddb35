"""A device as the host sees it, on this machine: what travels, what is verified, and what breaks off."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from targets.device import Device
from targets.errors import TargetError
from targets.target import target_model
from targets.transports import Completed, Transport, local


class Counting:
    """The local transport, with every file that it brings written down, and the bytes that follow jobs counted."""

    def __init__(self) -> None:
        self._transport: Transport = local.connect(local.Options())
        self.sent: list[str] = []
        self.sent_bytes = 0

    def put(self, source: Path, destination: str, *, deadline_s: float) -> None:
        self.sent.append(destination)
        self._transport.put(source, destination, deadline_s=deadline_s)

    def get(self, source: str, destination: Path, *, deadline_s: float) -> None:
        self._transport.get(source, destination, deadline_s=deadline_s)

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: Iterable[bytes] = (),
        deadline_s: float,
        on_line: Callable[[bytes], None] | None = None,
    ) -> Completed:
        return self._transport.run(argv, stdin=self._seen(stdin), deadline_s=deadline_s, on_line=on_line)

    def _seen(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for number, piece in enumerate(pieces):
            if number:
                self.sent_bytes += len(piece)
            elif (job := json.loads(piece))["do"] == "receive":
                self.sent.append(job["path"])
            yield piece

    def close(self) -> None:
        self._transport.close()


@pytest.fixture
def transport() -> Iterator[Counting]:
    transport = Counting()
    yield transport
    transport.close()


def open_device(folder: Path, transport: Counting) -> Device:
    fields = {
        "transport": "local",
        "local": {},
        "workdir": str(folder / "work dir"),
        "install_path": str(folder / "i"),
    }
    return Device("here", target_model().model_validate(fields), transport)


@pytest.fixture
def device(tmp_path: Path, transport: Counting, home: Path) -> Device:
    return open_device(tmp_path, transport)


def content(folder: Path, text: bytes) -> dict[str, Path]:
    path = folder / "file.tflite"
    path.write_bytes(text)
    return {hashlib.sha256(text).hexdigest(): path}


def test_the_agent_travels_once_and_again_when_it_was_changed(tmp_path: Path, transport: Counting) -> None:
    open_device(tmp_path, transport)
    open_device(tmp_path, transport)
    assert len(transport.sent) == 1
    Path(transport.sent[0]).write_bytes(b"not the agent")
    open_device(tmp_path, transport).ask("status", install_path=str(tmp_path / "i"))
    assert len(transport.sent) == 2


def test_a_file_travels_once_and_again_when_it_was_changed(
    device: Device, transport: Counting, tmp_path: Path
) -> None:
    files = content(tmp_path, b"model")
    (place,) = device.push(files).values()
    assert Path(place).read_bytes() == b"model"
    before = len(transport.sent)
    device.push(files)
    assert len(transport.sent) == before
    Path(place).write_bytes(b"mode!")
    device.push(files)
    assert len(transport.sent) == before + 1
    assert Path(place).read_bytes() == b"model"


def test_a_file_that_is_not_what_its_name_says_is_not_believed(device: Device, tmp_path: Path) -> None:
    (path,) = content(tmp_path, b"model").values()
    with pytest.raises(TargetError, match="arrived damaged"):
        device.push({"0" * 64: path})


MIB = 1 << 20


@pytest.mark.parametrize(
    ("part", "resent"),
    [
        (lambda content: b"", 3 * MIB + 9),
        (lambda content: content[: 2 * MIB + 7], MIB + 2),
        (lambda content: content[: 2 * MIB] + bytes(7), MIB + 9),  # what a power cut leaves of a last block
        (lambda content: content, 0),
        (lambda content: content + b"more", 9),
        (lambda content: b"another file", 3 * MIB + 9),
    ],
)
def test_a_push_goes_on_where_another_broke_off(
    device: Device, transport: Counting, tmp_path: Path, part: Callable[[bytes], bytes], resent: int
) -> None:
    whole = np.random.default_rng(1).bytes(3 * MIB + 9)
    files = content(tmp_path, whole)
    place = Path(device.target.workdir, "objects", f"{next(iter(files))}.tflite")
    place.parent.mkdir()
    place.with_name(f"{place.name}.part").write_bytes(part(whole))
    assert device.push(files) == {next(iter(files)): str(place)}
    assert place.read_bytes() == whole
    assert transport.sent_bytes == resent
    assert list(place.parent.iterdir()) == [place]


def test_two_hosts_do_not_write_one_file(device: Device, tmp_path: Path) -> None:
    files = content(tmp_path, b"model")
    part = Path(device.target.workdir, "objects", f"{next(iter(files))}.tflite.part")
    part.parent.mkdir()
    with part.open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(TargetError, match="another host is sending"):
            device.push(files)
    device.push(files)


def test_room_is_made_sure_of_before_anything_is_sent(
    device: Device, transport: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("targets.device.MARGIN_BYTES", 1 << 60)
    with pytest.raises(TargetError, match=r"here: [\d,]+ MB are needed in .*work dir, [\d,]+ MB are free"):
        device.push(content(tmp_path, b"model"))
    assert transport.sent_bytes == 0


def test_a_runtime_travels_once_and_again_when_it_was_changed(device: Device, transport: Counting) -> None:
    folder = device.provision(lambda text: None).folder
    archives = [name for name in transport.sent if name.endswith(".tar.gz")]
    assert len(archives) == 1 and not Path(archives[0]).exists()
    assert device.provision(lambda text: None).folder == folder
    assert len([name for name in transport.sent if name.endswith(".tar.gz")]) == 1
    next(Path(folder).rglob("*.py")).write_bytes(b"changed")
    device.provision(lambda text: None)
    assert len([name for name in transport.sent if name.endswith(".tar.gz")]) == 2


def test_what_the_agent_refuses_is_told_with_the_devices_name(device: Device) -> None:
    with pytest.raises(TargetError, match=r"here: expected job\.do to be one of"):
        device.ask("dance")


def agents_on(folder: Path) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(word.startswith(os.fsencode(folder)) for word in words) and b"worker" not in words:
            found.append(int(process.name))
    return found


def test_an_agent_that_dies_is_a_broken_answer_and_the_next_job_works(device: Device, tmp_path: Path) -> None:
    provisioned = device.provision(lambda text: None)
    inputs = tmp_path / "inputs.npy"
    np.save(inputs, np.zeros((1, 2), np.float32))
    (tmp_path / "model.tflite").write_bytes(b"no model")

    def kill(event: Any) -> None:
        for number in agents_on(tmp_path):
            os.kill(number, signal.SIGKILL)

    job: dict[str, Any] = dict(
        lock=device.lock,
        bundle=provisioned.folder,
        runtime=provisioned.runtime,
        threads=1,
        variants={"one": str(tmp_path / "model.tflite")},
        inputs=str(inputs),
        steps=[{"kind": "evaluate", "variant": "one", "outputs": str(tmp_path / "out.npy")}],
        protocol={},
        step_deadline_s=60,
    )
    with pytest.raises(TargetError, match=r"the agent's answer to 'measure' broke off \(exit -9\)"):
        device.ask("measure", kill, **job)
    with pytest.raises(TargetError, match="evaluate one"):
        device.ask("measure", **job)


def test_what_no_run_used_for_long_leaves_the_device(
    device: Device, transport: Counting, tmp_path: Path
) -> None:
    used = device.push(content(tmp_path, b"used"))
    unused = Path(*device.push(content(tmp_path, b"unused")).values())
    bundle = unused.parent.parent / "bundles" / "old"
    bundle.mkdir(parents=True)
    for path in (
        unused,
        bundle,
        *map(Path, used.values()),
        *bundle.parent.parent.joinpath("agents").iterdir(),
    ):
        os.utime(path, (0, 0))
    device.push(content(tmp_path, b"used"))
    device.tidy()
    assert not unused.exists() and not bundle.exists()
    assert all(Path(path).exists() for path in used.values())
    device.tidy()  # the agent itself is in use


def test_beyond_the_quota_what_was_used_longest_ago_goes_first(device: Device, tmp_path: Path) -> None:
    objects = Path(device.target.workdir, "objects")
    places = [Path(*device.push(content(tmp_path, bytes([n]) * 1000)).values()) for n in range(4)]
    for day, place in enumerate(places):
        os.utime(place, (day, day))
    agent = sum(path.stat().st_size for path in (objects.parent / "agents").iterdir())
    job: dict[str, Any] = {"folders": [str(objects), str(objects.parent / "agents")], "workdir": str(objects)}
    job |= {"unused_s": 1e10, "recent_s": 0.5, "quota_bytes": agent + 2000, "keep": [str(places[0])]}
    removed = device.ask("tidy", **job)[0]["removed"]
    assert removed == [str(places[1]), str(places[2])]
    assert device.ask("tidy", **job | {"recent_s": 1e11, "quota_bytes": 0})[0]["removed"] == []


def test_cleaning_leaves_no_trace(device: Device, tmp_path: Path) -> None:
    files = content(tmp_path, b"model")
    (digest,) = files
    (place,) = device.push(files).values()
    Path(f"{place}.part").write_bytes(b"half")
    device.ask(
        "install",
        model=place,
        sha256=digest,
        manifest={"sha256": digest},
        install_path=device.target.install_path,
        lock=device.lock,
    )
    removed = {Path(each["path"]).name for each in device.clean(installed=False)}
    assert removed == {"agents", "objects", "work dir"}
    assert not Path(device.target.workdir).exists()
    assert Path(device.target.install_path, "current", "model.tflite").exists()


def test_cleaning_takes_what_is_installed_along_if_asked_to(
    device: Device, transport: Counting, tmp_path: Path
) -> None:
    Path(device.target.install_path, "versions").mkdir(parents=True)
    device.clean(installed=True)
    assert not Path(device.target.install_path).exists()
    assert open_device(tmp_path, transport).push(content(tmp_path, b"model"))


def test_nothing_is_cleaned_under_a_jobs_feet(device: Device) -> None:
    with open(device.lock, "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(TargetError, match="another job has the device"):
            device.clean(installed=False)
    assert Path(device.target.workdir, "agents").exists()

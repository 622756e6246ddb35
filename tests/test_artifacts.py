from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from pipeline import atomic
from pipeline.artifacts import Store, canonical_json


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_what_was_remembered_is_found(store: Store) -> None:
    artifact = store.put_json({"b": 1, "a": [1.5, None]})
    store.remember("stage", "key", {"report": artifact}, {"stage": "stage", "options": {"x": 1}})
    found = store.find("stage", "key")
    assert found == {"report": artifact}
    assert artifact.read_json() == {"a": [1.5, None], "b": 1}
    assert store.find("stage", "another") is None


@pytest.mark.parametrize("harm", ["cut", "change", "remove", "record"])
def test_a_damaged_object_or_record_is_a_miss(store: Store, harm: str) -> None:
    artifact = store.put("tflite", b"0123456789")
    store.remember("stage", "key", {"file": artifact}, {})
    if harm == "cut":
        artifact.path.write_bytes(b"01234")
    elif harm == "change":
        artifact.path.write_bytes(b"012345678X")
    elif harm == "remove":
        artifact.path.unlink()
    else:
        (store.root / "records" / "stage" / "key.json").write_bytes(b'{"outputs": {"file": ')
    assert store.find("stage", "key") is None
    store.remember("stage", "key", {"file": store.put("tflite", b"0123456789")}, {})
    found = store.find("stage", "key")
    assert found is not None and found["file"].path.read_bytes() == b"0123456789"


def test_the_least_recently_used_goes_first(store: Store) -> None:
    old, new = store.put("tflite", b"o" * 1000), store.put("tflite", b"n" * 1000)
    os.utime(old.path, (1, 1))
    assert store.shrink(1500) == 1000
    assert not old.path.exists() and new.path.exists()


def test_being_found_counts_as_use(store: Store) -> None:
    used, idle = store.put("tflite", b"u" * 1000), store.put("tflite", b"i" * 1000)
    store.remember("stage", "key", {"file": used}, {})
    os.utime(used.path, (1, 1))
    os.utime(idle.path, (2, 2))
    assert store.find("stage", "key")
    store.shrink(1900)
    assert used.path.exists() and not idle.path.exists()


def test_nothing_is_removed_while_somebody_uses_the_store(store: Store) -> None:
    artifact = store.put("tflite", b"x" * 1000)
    with store.in_use():
        assert store.shrink(0) == 0
        assert artifact.path.exists()
    assert store.shrink(0) > 0
    assert not artifact.path.exists()


def test_left_overs_of_a_killed_process_are_cleared(store: Store) -> None:
    artifact = store.put("tflite", b"whole")
    left_over = artifact.path.with_name(f"{atomic.TEMPORARY}123.tflite")
    left_over.write_bytes(b"hal")
    store.shrink(1 << 20)
    assert not left_over.exists() and artifact.path.exists()


def _put_for_ever(root: Path, started: Event) -> None:
    store = Store(root)
    number = 0
    while True:
        content = f"{number % 50}".encode() * 20_000
        store.remember("stage", f"{number % 50}", {"file": store.put("tflite", content)}, {})
        number += 1
        if number == 20:
            started.set()


def test_a_writer_killed_at_any_moment_leaves_a_usable_store(store: Store) -> None:
    context = multiprocessing.get_context("spawn")
    for _ in range(5):
        started = context.Event()
        process = context.Process(target=_put_for_ever, args=(store.root, started))
        process.start()
        assert started.wait(60)
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        found = [store.find("stage", str(number)) for number in range(50)]
        assert sum(each is not None for each in found) >= 19
        for number, each in enumerate(found):
            if each is not None:
                assert each["file"].path.read_bytes() == f"{number}".encode() * 20_000


def _put_the_same(root: Path) -> None:
    store = Store(root)
    with store.in_use():
        for number in range(30):
            store.remember("stage", str(number), {"file": store.put("tflite", b"%d" % number * 5000)}, {})


def test_two_writers_at_once_do_not_disturb_each_other(store: Store) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_put_the_same, args=(store.root,)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert all(store.find("stage", str(number)) for number in range(30))


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(b"before")
    with pytest.raises(RuntimeError), atomic.new_file(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_canonical_json_does_not_depend_on_order() -> None:
    assert canonical_json({"a": 1, "b": [2]}) == canonical_json({"b": [2], "a": 1}) == b'{"a":1,"b":[2]}'
    with pytest.raises(ValueError):
        canonical_json(float("nan"))

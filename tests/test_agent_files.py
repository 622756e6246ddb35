"""What the agent does with files: digests, unpacking, installing; faults injected into each."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agents import files, unpacking
from device_agents.failure import Failure
from device_agents.job import Job
from tests.agent_process import Agent, small_disk

TREE = {"b.txt": b"b", "a/x": b"", "a/__pycache__/x.pyc": b"whatever", "a.txt": b"a"}
# sha256 of "a.txt\0ca97...\na/x\0e3b0...\nb.txt\03e23...\n", made with printf and sha256sum.
TREE_DIGEST = "20d5a0428389c6025a5f6e116f181016a79fc6a917e6a969740feaf27b328544"
OLD = {"old": b"old"}


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path)


def _write(folder: Path, tree: dict[str, bytes]) -> Path:
    for name, content in tree.items():
        folder.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
        folder.joinpath(name).write_bytes(content)
    return folder


def _pack(path: Path, tree: dict[str, bytes], *others: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member in others:
            tar.addfile(member)
        for name, content in tree.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def _member(name: str, kind: bytes, linkname: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, linkname
    return member


def _unpack(agent: Agent, archive: Path, digest: str = TREE_DIGEST, **changes: Any) -> dict[str, Any]:
    into = agent.folder / "into"
    job = {
        "do": "unpack",
        "archive": str(archive),
        "into": str(into),
        "digest": digest,
        "lock": str(agent.lock),
    }
    return agent.answer(**{**job, **changes})[0]


def test_hash_tells_digest_and_size_and_null_for_what_is_not_there(agent: Agent) -> None:
    here = agent.folder / "here"
    here.write_bytes(b"abc")
    events = agent.answer(do="hash", paths=[str(here), "here", "not here", str(agent.folder)])
    abc = {"sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "bytes": 3}
    assert events == [
        {
            "event": "hashes",
            "files": {str(here): abc, "here": abc, "not here": None, str(agent.folder): None},
        },
        {"event": "done"},
    ]


def test_tree_digest_known_answer(tmp_path: Path) -> None:
    assert files.tree_digest(str(_write(tmp_path, TREE))) == TREE_DIGEST


NAMES = st.text("ab.-_", min_size=1, max_size=4).filter(lambda name: name.strip("."))


@settings(deadline=None, max_examples=30)
@given(
    tree=st.dictionaries(st.tuples(st.sampled_from(["d", "d/e", "d-", "__pycache__"]), NAMES), st.binary())
)
def test_tree_digest_is_its_definition(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[Any, bytes]
) -> None:
    flat = {f"{folder}/{name}": content for (folder, name), content in tree.items() if name != "e"}
    folder = _write(tmp_path_factory.mktemp("tree"), flat)
    lines = [
        f"{name}\0{hashlib.sha256(flat[name]).hexdigest()}\n" for name in sorted(flat) if "__py" not in name
    ]
    assert files.tree_digest(str(folder)) == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_unpack_then_verify(agent: Agent) -> None:
    archive = _pack(agent.folder / "a.tar.gz", TREE, _member("b.link", tarfile.SYMTYPE, "a/x"))
    assert _unpack(agent, archive) == {"event": "unpacked", "digest": TREE_DIGEST}
    into = agent.folder / "into"
    assert {name: into.joinpath(name).read_bytes() for name in TREE} == TREE
    assert into.joinpath("b.link").read_bytes() == b""
    assert not archive.exists()

    verify: dict[str, Any] = {"do": "verify", "folder": str(into), "digest": TREE_DIGEST}
    assert agent.answer(**verify)[0] == {"event": "verified", "ok": True, "digest": TREE_DIGEST}
    into.joinpath("a/__pycache__/y.pyc").write_bytes(b"compiled")
    assert agent.answer(**verify)[0]["ok"] is True
    into.joinpath("b.txt").write_bytes(b"c")
    changed = agent.answer(**verify)[0]
    assert changed["ok"] is False
    assert changed["digest"] not in (None, TREE_DIGEST)
    missing = agent.answer(**{**verify, "folder": "nowhere"})[0]
    assert missing == {"event": "verified", "ok": False, "digest": None}


def test_unpack_replaces_what_is_there_and_clears_what_a_power_cut_left(agent: Agent) -> None:
    for name in ("into", "into.partial", "into.replaced"):
        _write(agent.folder / name, OLD)
    assert _unpack(agent, _pack(agent.folder / "a.tar.gz", TREE))["event"] == "unpacked"
    assert not agent.folder.joinpath("into/old").exists()
    assert sorted(path.name for path in agent.folder.iterdir()) == ["agent.pyz", "into", "lock"]


@pytest.mark.parametrize("length", [0, 10, 60, -1])
def test_a_truncated_archive_changes_nothing(agent: Agent, length: int) -> None:
    _write(agent.folder / "into", OLD)
    archive = _pack(agent.folder / "a.tar.gz", {**TREE, "noise": os.urandom(4000)})
    archive.write_bytes(archive.read_bytes()[:length])
    error = _unpack(agent, archive)
    assert (error["event"], error["kind"]) == ("error", "job")
    assert "send it again" in error["message"]
    assert sorted(path.name for path in agent.folder.iterdir()) == ["a.tar.gz", "agent.pyz", "into", "lock"]
    assert agent.folder.joinpath("into/old").read_bytes() == b"old"


def test_damage_anywhere_is_refused_or_hurts_no_file(tmp_path: Path) -> None:
    content = _pack(tmp_path / "good.tar.gz", {**TREE, "noise": os.urandom(4000)}).read_bytes()
    unpacking._extract(str(tmp_path / "good.tar.gz"), str(tmp_path / "tree"))
    digest = files.tree_digest(str(tmp_path / "tree"))
    archive, into = tmp_path / "bad.tar.gz", tmp_path / "into"
    job = Job({"archive": str(archive), "into": str(into), "digest": digest, "lock": str(tmp_path / "lock")})
    kinds = []
    for position in range(0, len(content), 50):
        archive.write_bytes(content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :])
        try:
            unpacking.unpack(job, lambda event: None)
        except Failure as failure:
            kinds.append(failure.kind)
            assert not into.exists()
        else:
            assert files.tree_digest(str(into)) == digest
            shutil.rmtree(into)
    assert set(kinds) == {"job"}
    assert len(kinds) > len(content) / 50 / 2


def test_an_archive_of_another_digest_changes_nothing(agent: Agent) -> None:
    _write(agent.folder / "into", OLD)
    error = _unpack(agent, _pack(agent.folder / "a.tar.gz", {**TREE, "one": b"more"}))
    assert (error["event"], error["kind"]) == ("error", "job")
    assert TREE_DIGEST in error["message"]
    assert [path.name for path in agent.folder.joinpath("into").iterdir()] == ["old"]
    assert not agent.folder.joinpath("into.partial").exists()


UNSAFE = pytest.mark.parametrize(
    "members",
    [
        [_member("/etc/evil", tarfile.REGTYPE)],
        [_member("../evil", tarfile.REGTYPE)],
        [_member("a/../../evil", tarfile.REGTYPE)],
        [_member("link", tarfile.SYMTYPE, "/etc")],
        [_member("link", tarfile.SYMTYPE, "..")],
        [_member("a/link", tarfile.SYMTYPE, "../../evil")],
        [_member("link", tarfile.SYMTYPE, "."), _member("link/evil", tarfile.REGTYPE)],
        [_member("a/b/up", tarfile.SYMTYPE, "../.."), _member("out", tarfile.SYMTYPE, "a/b/up/..")],
        [_member("link", tarfile.LNKTYPE, "../evil")],
        [_member("link", tarfile.LNKTYPE, "/etc/passwd")],
        [_member("soft", tarfile.SYMTYPE, "b.txt"), _member("hard", tarfile.LNKTYPE, "soft")],
        [_member("pipe", tarfile.FIFOTYPE)],
        [_member("disk", tarfile.BLKTYPE)],
    ],
    ids=lambda members: " ".join(f"{member.name}>{member.linkname}" for member in members).replace("/", "|"),
)


@UNSAFE
def test_an_unsafe_archive_is_refused_and_nothing_lands(agent: Agent, members: list[tarfile.TarInfo]) -> None:
    error = _unpack(agent, _pack(agent.folder / "a.tar.gz", TREE, *members))
    assert (error["event"], error["kind"]) == ("error", "job")
    assert "unpack" in error["message"]
    assert sorted(path.name for path in agent.folder.iterdir()) == ["a.tar.gz", "agent.pyz", "lock"]


@UNSAFE
def test_it_is_refused_by_an_old_python_too(
    tmp_path: Path, members: list[tarfile.TarInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tarfile, "data_filter", tarfile.fully_trusted_filter)
    archive = _pack(tmp_path / "a.tar.gz", TREE, *members)
    with pytest.raises(Failure, match="refused to unpack"):
        unpacking._extract(str(archive), str(tmp_path / "into"))
    assert not tmp_path.joinpath("evil").exists()


def test_modes_of_an_archive_are_tamed(agent: Agent) -> None:
    setuid = _member("run", tarfile.REGTYPE)
    setuid.mode, setuid.uid = 0o4777, 12345
    digest = hashlib.sha256(f"run\0{hashlib.sha256(b'').hexdigest()}\n".encode()).hexdigest()
    assert _unpack(agent, _pack(agent.folder / "a.tar.gz", {}, setuid), digest)["event"] == "unpacked"
    status = agent.folder.joinpath("into/run").stat()
    assert (status.st_mode & 0o7777, status.st_uid) == (0o755, os.getuid())


def test_a_full_disk_is_said_to_be_full(agent: Agent) -> None:
    small = small_disk(agent.folder / "small")
    archive = _pack(agent.folder / "a.tar.gz", {"large": os.urandom(100_000)})
    error = _unpack(agent, archive, into=str(agent.folder / "small/into"), before=small)
    assert (error["event"], error["kind"]) == ("error", "disk")
    assert "No space left on device" in error["message"]


def test_removing_deletes_files_and_nothing_else(agent: Agent, tmp_path: Path) -> None:
    folder = _write(tmp_path / "outputs", {"one": b"1", "two": b"2"})
    events = agent.answer(do="remove", paths=[str(folder / name) for name in ("one", "none", "")])
    assert events[0] == {"event": "removed", "paths": [str(folder / "one")]}
    assert sorted(path.name for path in folder.iterdir()) == ["two"]

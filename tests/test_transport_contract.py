"""What every transport must do, shown on each: this machine, and this machine behind real OpenSSH with and without
SFTP, and behind a real adb server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from targets.errors import TargetError
from targets.transports import Transport
from tests.loopback_adb import loopback_adb
from tests.loopback_sshd import loopback_sshd
from tests.waiting import awaited

NASTY_NAMES = [
    "two words",
    "it's",
    'a "quote"',
    "$(touch pwned)",
    "`id`",
    "$HOME",
    "--version",
    "line\nbreak",
    "*",
    "a;b&c|d>e",
    "back\\slash\\n",
    "~",
    "!!",
    "\u00fc\u4e2d\U0001f600",
]
WORDS = st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=5)
FEW = settings(max_examples=25, deadline=None)


class Way:
    """A transport under test, and how another process would open it."""

    def __init__(self, name: str, options: BaseModel, folder: Path) -> None:
        self.name, self.options, self.folder = name, options, folder

    def connect(self) -> Transport:
        connected: Transport = import_module(f"targets.transports.{self.name}").connect(self.options)
        return connected


@pytest.fixture(scope="module", params=["local", "ssh", "ssh without SFTP", "adb"])
def way(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    folder = tmp_path_factory.mktemp("way")
    if request.param == "local":
        yield Way("local", import_module("targets.transports.local").Options(), folder)
    elif request.param == "adb":
        with loopback_adb(folder) as phone:
            yield Way("adb", phone, folder)
    else:
        with loopback_sshd(folder, sftp=request.param == "ssh") as options:
            yield Way("ssh", options, folder)


@pytest.fixture(scope="module")
def transport(way: Way) -> Iterator[Transport]:
    connected = way.connect()
    yield connected
    connected.close()


def has_ended(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


# --- files


@FEW
@given(data=st.binary(max_size=300_000))
def test_bytes_survive_the_round_trip(transport: Transport, way: Way, data: bytes) -> None:
    source, back = way.folder / "source", way.folder / "back"
    source.write_bytes(data)
    transport.put(source, str(way.folder / "there"), deadline_s=30)
    transport.get(str(way.folder / "there"), back, deadline_s=30)
    assert (way.folder / "there").read_bytes() == back.read_bytes() == data


@pytest.mark.parametrize("name", NASTY_NAMES)
def test_names_are_names_and_nothing_else(
    transport: Transport, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"content")
    there = tmp_path / "new folder" / name / name
    transport.put(source, str(there), deadline_s=30)
    transport.get(str(there), tmp_path / "back" / name, deadline_s=30)
    assert (tmp_path / "back" / name).read_bytes() == b"content"
    assert [path.name for path in there.parent.iterdir()] == [name]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "new folder", "source"]


def test_put_replaces_a_file_whole(transport: Transport, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_bytes(b"old" * 1000)
    with there.open("rb") as reader:
        (tmp_path / "source").write_bytes(b"new")
        transport.put(tmp_path / "source", str(there), deadline_s=30)
        assert reader.read() == b"old" * 1000  # who has it open keeps the file that was
    assert there.read_bytes() == b"new"


def test_a_failed_put_leaves_nothing_behind(transport: Transport, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"content")
    (tmp_path / "taken").mkdir()
    with pytest.raises(TargetError, match="could not copy"):
        transport.put(tmp_path / "source", str(tmp_path / "taken"), deadline_s=30)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "taken"]


def test_a_failed_get_keeps_the_file_that_was(transport: Transport, tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"kept")
    with pytest.raises(TargetError, match="No such file"):
        transport.get(str(tmp_path / "missing"), tmp_path / "kept", deadline_s=30)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_bytes() == b"kept"


def test_a_missing_source_is_said(transport: Transport, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="No such file"):
        transport.put(tmp_path / "missing", str(tmp_path / "there"), deadline_s=30)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount the small disk that this fills")
def test_a_full_disk_is_called_full(transport: Transport, tmp_path: Path) -> None:
    small = tmp_path / "small disk"
    small.mkdir()
    (tmp_path / "source").write_bytes(bytes(4 << 20))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], check=True)
    try:
        with pytest.raises(TargetError, match=r"disk is full|No space left"):
            transport.put(tmp_path / "source", str(small / "there"), deadline_s=30)
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


# --- commands

PRINT_ARGUMENTS = "import os, sys, json; print(json.dumps([os.fsencode(w).hex() for w in sys.argv[1:]]))"


@FEW
@given(words=WORDS)
def test_arguments_arrive_as_they_are(transport: Transport, words: list[str]) -> None:
    done = transport.run([sys.executable, "-c", PRINT_ARGUMENTS, *words], deadline_s=30)
    assert [bytes.fromhex(word).decode() for word in json.loads(done.stdout)] == words


def test_nasty_arguments_arrive_as_they_are(transport: Transport) -> None:
    done = transport.run([sys.executable, "-c", PRINT_ARGUMENTS, *NASTY_NAMES, ""], deadline_s=30)
    assert [bytes.fromhex(word).decode() for word in json.loads(done.stdout)] == [*NASTY_NAMES, ""]


def test_streams_and_exit_code(transport: Transport) -> None:
    done = transport.run(["sh", "-c", "echo out; echo err >&2; exit 7"], deadline_s=30)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


def test_a_command_ended_by_a_signal_has_a_negative_code(transport: Transport) -> None:
    assert transport.run(["sh", "-c", "kill -KILL $$"], deadline_s=30).returncode < 0


def test_a_missing_program_is_code_127(transport: Transport) -> None:
    done = transport.run(["no-such-program"], deadline_s=30)
    assert done.returncode == 127
    assert b"no-such-program" in done.stderr


def test_a_flood_on_stderr_blocks_nothing(transport: Transport) -> None:
    script = "import sys; sys.stderr.write('x' * (5 << 20) + 'end'); print('done')"
    done = transport.run([sys.executable, "-c", script], deadline_s=60)
    assert done.stdout == b"done\n"
    assert len(done.stderr) == 64 * 1024
    assert done.stderr.endswith(b"xend")


def test_input_larger_than_every_buffer(transport: Transport) -> None:
    data = os.urandom(5 << 20)
    assert transport.run(["head", "-c", str(len(data))], stdin=[data], deadline_s=60).stdout == data


def test_input_that_nobody_reads(transport: Transport) -> None:
    assert transport.run(["true"], stdin=[bytes(5 << 20)], deadline_s=60).returncode == 0


def test_lines_are_handed_over_as_they_arrive(transport: Transport, tmp_path: Path) -> None:
    # The command waits for a file that the first line's arrival makes: late lines would miss the deadline.
    script = 'echo first; until [ -e "$0" ]; do sleep 0.05; done; echo second; printf "half a li"'
    lines: list[bytes] = []

    def receive(line: bytes) -> None:
        lines.append(line)
        (tmp_path / "go").touch()

    done = transport.run(["sh", "-c", script, str(tmp_path / "go")], deadline_s=30, on_line=receive)
    assert lines == [b"first", b"second"]
    assert done.stdout == b""


def test_a_deadline_ends_the_command_and_what_it_started(transport: Transport) -> None:
    processes: list[bytes] = []
    script = "echo why >&2; sleep 600 & echo $!; echo $$; exec sleep 600"
    with pytest.raises(TargetError, match=r"deadline of 2 s.*\n?why"):
        transport.run(["sh", "-c", script], deadline_s=2, on_line=processes.append)
    assert len(processes) == 2
    for process in processes:
        assert awaited(lambda process=process: has_ended(int(process)))


def test_an_error_of_the_listener_ends_the_command(transport: Transport) -> None:
    def refuse(line: bytes) -> None:
        raise LookupError(line.decode())

    with pytest.raises(LookupError) as caught:
        transport.run(["sh", "-c", "echo $$; exec sleep 600"], deadline_s=60, on_line=refuse)
    assert awaited(lambda: has_ended(int(str(caught.value))))


def test_standard_input_stays_open_after_the_last_byte(transport: Transport) -> None:
    # `cat` ends at the end of its input: it must not come while the host is there.
    lines: list[bytes] = []
    with pytest.raises(TargetError, match="deadline"):
        transport.run(["cat"], stdin=[b"job\n"], deadline_s=1, on_line=lines.append)
    assert lines == [b"job"]


def test_standard_input_ends_with_the_host(way: Way, tmp_path: Path) -> None:
    # A host of its own, which is then killed as the real one may be.
    host = (
        "import sys; from importlib import import_module; module = import_module(sys.argv[1]);"
        "transport = module.connect(module.Options.model_validate_json(sys.argv[2]));"
        "transport.run(sys.argv[3:], stdin=[b'job'], deadline_s=600)"
    )
    script = 'touch "$0.started"; cat > "$0.input"; mv "$0.input" "$0"'
    command = ["sh", "-c", script, str(tmp_path / "ended")]
    module = f"targets.transports.{way.name}"
    argv = [sys.executable, "-c", host, module, way.options.model_dump_json(), *command]
    with subprocess.Popen(argv, cwd=Path(__file__).parent.parent) as process:
        assert awaited((tmp_path / "ended.started").exists)
        process.kill()
    assert awaited((tmp_path / "ended").exists)


def test_close_is_harmless_twice(way: Way) -> None:
    connected = way.connect()
    connected.close()
    connected.close()


def test_close_ends_the_command_that_another_thread_waits_for(way: Way) -> None:
    connected, processes = way.connect(), list[bytes]()

    def wait() -> str:
        with pytest.raises(TargetError) as caught:
            connected.run(
                ["sh", "-c", "sleep 600 & echo $!; echo $$; exec sleep 600"],
                deadline_s=60,
                on_line=processes.append,
            )
        return str(caught.value)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait)
        assert awaited(lambda: len(processes) == 2)
        connected.close()
        assert "clos" in waiting.result() or "lost" in waiting.result()
    for process in processes:
        assert awaited(lambda process=process: has_ended(int(process)))
    with pytest.raises(TargetError):
        connected.run(["true"], deadline_s=10)

"""Is a target fit to be deployed to? One finding after another, until one makes the rest impossible."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from targets.errors import NotReached, TargetError
from targets.privacy import ROOT
from targets.probe import probe
from targets.provisioning import choose, runtime_of
from targets.target import TargetBase, connect, python_of, with_advice
from targets.transports import Transport

_SHORT_S = 30.0
# A runtime's archive, the same unpacked, and the models: what a first deploy needs.
ROOM_BYTES = 200 << 20
# The nearest folder that exists; whether it can be written; what is free there. Nothing is made.
_PLACE = """
d=$1
while [ ! -e "$d" ]; do case $d in /*/*|*/*) d=${d%/*} ;; /*) d=/ ;; *) d=. ;; esac; [ -n "$d" ] || d=/; done
[ -d "$d" ] && [ -w "$d" ] || { echo "$d cannot be written" >&2; exit 1; }
df -Pk "$d" 2>/dev/null || df -k "$d"
"""


@dataclass(frozen=True)
class Finding:
    """One question to a device: what was asked, the answer, and whether it is good; `remedy` if it is not."""

    what: str
    ok: bool
    answer: str
    remedy: str = ""


def check_up(target: TargetBase) -> list[Finding]:
    """All findings. After one that fails, the questions that need it are not asked."""
    found = list(_way(target))
    if not all(each.ok for each in found):
        return found
    try:
        transport = connect(target)
    except TargetError as error:
        return [*found, Finding("login", False, error.message, error.remedy)]
    try:
        return [*found, *_device(target, transport)]
    finally:
        transport.close()


def _way(target: TargetBase) -> Iterator[Finding]:
    """Whether the machine that answers is the right one. Only SSH can tell."""
    if target.transport != "ssh":
        return
    from targets.ssh_login import host_key_of

    options = target.ssh  # type: ignore[attr-defined]
    try:
        key, known = host_key_of(options)
    except TargetError as error:
        told = with_advice(error, target) if isinstance(error, NotReached) else error
        yield Finding("reachable", False, told.message, told.remedy)
        return
    yield Finding("reachable", True, options.host)
    how = "pinned" if options.host_key else "in known_hosts"
    add = "compare it on the device (ssh-keygen -lf /etc/ssh/ssh_host_*.pub), then write it down:\nhost_key: "
    yield Finding(
        "host key",
        known,
        f"{key.fingerprint}, {how if known else 'unknown'}",
        "" if known else add + key.line,
    )


def _device(target: TargetBase, transport: Transport) -> Iterator[Finding]:
    yield _asked("login", lambda: _user(transport))
    python = python_of(target)
    try:
        found = probe(transport, python, "")
    except TargetError as error:
        yield Finding("system", False, error.message, error.remedy)
    else:
        yield Finding("system", True, found.sentence)
        yield _asked("runtime", lambda: f"{runtime_of(target, found)}, as {choose(target, found)[0]}")
    for what, place in (("workdir", target.workdir), ("install_path", target.install_path)):
        yield _asked(what, lambda place=place: _room(transport, place))  # type: ignore[misc]


def _asked(what: str, question: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, question())
    except TargetError as error:
        return Finding(what, False, error.message, error.remedy)


def _user(transport: Transport) -> str:
    done = transport.run(["id", "-u"], deadline_s=_SHORT_S)
    number = done.stdout.decode(errors="replace").strip()
    return ROOT if number == "0" else "let in, without special rights"


def _room(transport: Transport, place: str) -> str:
    """What is free where `place` is or will be. Raises `TargetError` when that is too little, or read-only."""
    done = transport.run(["sh", "-c", _PLACE, "sh", place], deadline_s=_SHORT_S)
    if done.returncode:
        raise TargetError(
            f"{place}: {done.stderr.decode(errors='replace').strip()}",
            "name another folder in the target's file, or make that one writable",
        )
    try:
        free = int(done.stdout.split(b"\n")[1].split()[3]) * 1024
    except (IndexError, ValueError):
        return f"{place}: writable, its free space unknown"
    if free < ROOM_BYTES:
        raise TargetError(
            f"{place}: {free / 1e6:.0f} MB free; a first deploy needs {ROOM_BYTES / 1e6:.0f} MB",
            "make room there",
        )
    return f"{place}: writable, {free / 1e9:.1f} GB free"

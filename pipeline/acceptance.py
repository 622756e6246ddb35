"""Everything that is promised of a device, tried on one: the first thing to run on a board of your own."""

from __future__ import annotations

import hashlib
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline import commands
from pipeline.errors import ExitCode, UserError
from pipeline.plan import PlanBase
from pipeline.progress import Progress
from pipeline.result import Result, TargetResult
from pipeline.sparse_tflite import runtimes
from pipeline.sparse_tflite.lint import lint
from targets.checkup import Finding, check_up
from targets.device import Device, open_device
from targets.errors import TargetError
from targets.host_keys import PublicKey
from targets.target import TargetBase, connect
from targets.transports import Transport

SENT = ("agents", "bundles", "objects")
CUT_AFTER_BYTES = 1 << 20
CUT_BYTES = (32 << 20, 256 << 20)
_SHORT_S = 60.0


@dataclass
class Trial:
    """A target under trial, and what came of its first deploy."""

    name: str
    target: TargetBase
    plan: PlanBase
    folder: Path
    progress: Progress
    result: Result | None = None

    @property
    def told(self) -> TargetResult:
        """What the device said in the first deploy."""
        assert self.result is not None
        return self.result.targets[self.name]


def run(trial: Trial) -> list[Finding]:
    """Try everything in turn; what needs a deploy is not tried without one. No exception is a pass."""
    findings = check_up(trial.target)
    if not all(each.ok for each in findings):
        return findings
    for what, needs_deploy, question in STEPS:
        if needs_deploy and trial.result is None:
            continue
        with trial.progress.step(f"{trial.name}: {what}"):
            try:
                findings.append(Finding(what, True, question(trial)))
            except TargetError as error:
                findings.append(Finding(what, False, error.message, error.remedy))
            except UserError as error:
                findings.append(Finding(what, False, str(error)))
    return findings


def _wrong_key(trial: Trial) -> str:
    """A host key that is not the device's must be refused."""
    if trial.target.transport != "ssh":
        return "not asked: only SSH has host keys"
    kind = b"ssh-ed25519"
    blob = b"".join(len(part).to_bytes(4) + part for part in (kind, secrets.token_bytes(32)))
    options = trial.target.ssh.model_copy(update={"host_key": PublicKey(kind.decode(), blob).line})  # type: ignore[attr-defined]
    try:
        connect(trial.target.model_copy(update={"ssh": options})).close()
    except TargetError as error:
        if "has changed" in error.message:
            return "refused, as it must be"
        raise
    raise TargetError(
        "a device that showed another host key than was pinned was let pass", "do not use this network"
    )


def _deploy(trial: Trial) -> str:
    found = commands.deploy(trial.plan, trial.folder, {trial.name: trial.target}, trial.progress)
    told = found.targets[trial.name]
    if found.exit_code != ExitCode.PASS:
        raise TargetError(told.error or told.headline, f"see runs/{found.id}/report.html")
    trial.result = found
    return told.headline


def _installed(trial: Trial) -> str:
    report = commands.status(trial.name, trial.target)
    digest = trial.told.installed.digest if trial.told.installed else "nothing"
    manifest = report["manifest"] or {}
    if not report["model_ok"] or manifest.get("sha256") != digest:
        raise TargetError(
            f"expected {digest[:12]} installed. Received: {manifest.get('sha256')}", "deploy again"
        )
    return f"{manifest['variant']} {digest[:12]} is at {trial.target.install_path}, its hash computed there"


def _prediction(trial: Trial) -> str:
    """What lint says of the installed file, beside what the device made of it."""
    told = trial.told
    with tempfile.TemporaryDirectory() as folder, open_device(trial.name, trial.target) as device:
        core = trial.target.core or device.probe.core
        if core is None:
            return "not asked: the kind of its cores is not known"
        copy = Path(folder, "model.tflite")
        device.fetch(f"{trial.target.install_path}/current/model.tflite", copy)
        report = lint(copy.read_bytes(), "the installed file", runtimes.load(told.runtime or ""), core)
    agreed = told.agreement is not None and told.agreement.agrees
    if bool(report.bad) == agreed:
        raise TargetError(
            f"lint says: {report.sentence}. The device's answers {'agree' if agreed else 'do not agree'}",
            "please report this: a rule of the runtime's is wrong",
        )
    return f"{report.sentence}; and the device's answers agree"


def _again(trial: Trial) -> str:
    before = _files(trial)
    found = commands.deploy(trial.plan, trial.folder, {trial.name: trial.target}, trial.progress)
    if found.exit_code != ExitCode.PASS:
        raise TargetError(found.targets[trial.name].error or found.targets[trial.name].headline)
    sent = sum(size for place, size in _files(trial).items() if place not in before)
    if sent:
        raise TargetError(f"{sent:,} bytes were sent again", "please report this")
    return "0 bytes sent"


def _files(trial: Trial) -> dict[tuple[str, str], int]:
    """Size of each file that was sent, by inode and path: what is sent anew is a new inode."""
    argv = ["find", trial.target.workdir, "-type", "f", "-exec", "ls", "-il", "{}", "+"]
    with _open(trial.target) as transport:
        lines = transport.run(argv, deadline_s=_SHORT_S).stdout.decode(errors="replace").splitlines()
    found = {}
    for line in lines:
        words = line.split()
        kept = any(f"/{folder}/" in line for folder in SENT) and "__pycache__" not in line
        if kept and len(words) > 6 and words[5].isdigit():
            found[words[0], words[-1]] = int(words[5])
    return found


def _cut(trial: Trial) -> str:
    """Cut the connection while a file travels; the next push must bring it whole."""
    if trial.target.transport == "local":
        return "not asked: there is no connection to cut"
    for size in CUT_BYTES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "cut.bin")
            path.write_bytes(secrets.token_bytes(size))
            with path.open("rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
            arrived = _push_and_cut(trial, digest, path)
            with open_device(trial.name, trial.target) as device:
                place = device.push({digest: path})[digest]
                found = device.ask("hash", paths=[place], deadline_s=_SHORT_S)[-1]["files"][place]
                device.ask("remove", paths=[place])
        if not found or found["sha256"] != digest:
            raise TargetError("after a cut the file did not arrive whole", "please report this")
        if arrived is not None:
            return f"cut after {arrived / 1e6:.1f} of {size / 1e6:.0f} MB; the next push brought it whole"
    raise TargetError(f"{size / 1e6:.0f} MB were sent before the connection could be cut")


def _push_and_cut(trial: Trial, digest: str, path: Path) -> int | None:
    """The bytes that had arrived when the connection was cut; None when it was sent before that."""
    failures: list[TargetError] = []
    with _open(trial.target) as watcher, _open(trial.target) as transport:
        device = Device(trial.name, trial.target, transport)

        def push() -> None:
            try:
                device.push({digest: path})
            except TargetError as error:
                failures.append(error)

        objects = f"{trial.target.workdir}/objects"
        before = arrived = _used(watcher, objects)
        pushing = threading.Thread(target=push)
        pushing.start()
        deadline = time.monotonic() + _SHORT_S
        while pushing.is_alive() and arrived < before + CUT_AFTER_BYTES and time.monotonic() < deadline:
            arrived = _used(watcher, objects)
        transport.close()
        pushing.join()
    return arrived - before if failures else None


def _used(transport: Transport, folder: str) -> int:
    """What a folder takes on the device's disk, in bytes."""
    said = transport.run(["du", "-sk", "--", folder], deadline_s=_SHORT_S).stdout.split()
    return int(said[0]) * 1024 if said and said[0].isdigit() else 0


def _nothing_left(trial: Trial) -> str:
    """No process of ours outlives its job."""
    script = 'for each in /proc/[0-9]*/cmdline; do tr "\\0" " " < "$each"; echo; done 2>/dev/null'
    with _open(trial.target) as transport:
        said = transport.run(["sh", "-c", script], deadline_s=_SHORT_S).stdout.decode(errors="replace")
    if running := [line for line in said.splitlines() if f"{trial.target.workdir}/agents/" in line]:
        raise TargetError(f"still running: {running[0][:200]}", "please report this")
    return "nothing of ours runs there"


@contextmanager
def _open(target: TargetBase) -> Iterator[Transport]:
    transport = connect(target)
    try:
        yield transport
    finally:
        transport.close()


STEPS: tuple[tuple[str, bool, Callable[[Trial], str]], ...] = (
    ("wrong host key", False, _wrong_key),
    ("deploy", False, _deploy),
    ("installed", True, _installed),
    ("lint's prediction", True, _prediction),
    ("second deploy", True, _again),
    ("cut in mid-push", True, _cut),
    ("left running", True, _nothing_left),
)

"""A device we hold a connection to: the agent is on it, files go there by content, jobs are asked of it."""

from __future__ import annotations

import hashlib
import itertools
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from targets.agent_archive import build_agent
from targets.errors import TargetError
from targets.privacy import ROOT, make_private
from targets.probe import Probe, probe
from targets.provisioning import Provisioned, provide
from targets.pushing import chunks, offset_to_go_on_from, unpacked_size
from targets.target import TargetBase, connect, python_of
from targets.transports import Transport

Event = dict[str, Any]
# The farm and the token that a farm lends the device with, in the words of the agent's jobs.
Lease = Mapping[str, Any]
PROTOCOL = 1
SHORT_S = 60.0
LONG_S = 900.0
UNUSED_S = 30 * 86400.0
# What a run uses, it used this short a time ago, the longest of runs included.
RECENT_S = 6 * 3600.0
# How long an agent waits for another that is receiving the same file: that one's host may have just died.
PATIENCE_S = 10.0
KEPT = ("agents", "objects", "outputs", "bundles")
# What is left free beside what is sent: outputs, manifests, logs of others.
MARGIN_BYTES = 16 << 20
SLOWEST_BYTES_PER_S = 50_000
REMEDIES = {
    "locked": "wait for the other run to end",
    "fenced": "run it again: it takes a lease anew",
    "disk": "free some space on the device",
    "deadline": "raise measure.step_deadline_s, or look what holds the device up",
}


class JobFailed(TargetError):
    """The agent's own word that a job failed; `kind` is the failure's, see `device_agents`."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message, REMEDIES.get(kind, ""))
        self.kind = kind


class DeviceBusy(JobFailed):
    """Another job has the device, which is not at fault."""


class Device:
    """An open connection. Use `open_device`, which ends it as well."""

    def __init__(
        self, name: str, target: TargetBase, transport: Transport, lease: Lease | None = None
    ) -> None:
        self.name = name
        self.target = target
        self._lease = {} if lease is None else {"lease": dict(lease)}
        self._transport = transport
        python = python_of(target)
        content, self.agent_digest = build_agent()
        self._agent = f"{target.workdir}/agents/agent-{self.agent_digest[:16]}.pyz"
        self.probe: Probe = probe(transport, python, self._agent)
        # Where the device has no Python, the first job waits for the one that provisioning brings.
        self._own_python = (python,) if self.probe.python is not None else None
        self._python: tuple[str, ...] | None = self._own_python
        if self.probe.agent != self.agent_digest:
            make_private(transport, target.workdir)
            self._put_bytes(content, self._agent)

    @property
    def lock(self) -> str:
        """The device's one lock: whoever measures or installs holds it."""
        return f"{self.target.workdir}/lock"

    def ask(
        self,
        do: str,
        on_event: Callable[[Event], None] | None = None,
        deadline_s: float = SHORT_S,
        payload: Iterable[bytes] = (),
        **job: Any,
    ) -> list[Event]:
        """Run one job of the agent's, the `payload` after its line, and return its events; `on_event` sees each as it
        arrives.

        Raises `JobFailed` when the agent says so, `TargetError` when the stream breaks off, or past the deadline.
        """
        if self._python is None:
            self.provision(lambda text: None)
        assert self._python is not None
        return self.ask_with(self._python, do, deadline_s, on_event, payload, **job)

    def ask_with(
        self,
        python: tuple[str, ...],
        do: str,
        deadline_s: float,
        on_event: Callable[[Event], None] | None = None,
        payload: Iterable[bytes] = (),
        **job: Any,
    ) -> list[Event]:
        """The same under a Python of one's choice: the command that the agent's path is added to."""
        events: list[Event] = []

        def receive(line: bytes) -> None:
            try:
                event = json.loads(line)
            except ValueError:
                raise TargetError(f"the agent on {self.name} sent no JSON: {line[:120]!r}") from None
            events.append(event)
            if on_event is not None and event.get("event") not in ("done", "error"):
                on_event(event)

        request = json.dumps({"version": PROTOCOL, "do": do, **self._lease, **job}).encode() + b"\n"
        done = self._transport.run(
            [*python, self._agent],
            stdin=itertools.chain([request], payload),
            deadline_s=deadline_s,
            on_line=receive,
        )
        last = events.pop() if events else {}
        if last.get("event") == "error":
            stderr = str(last.get("stderr") or "").strip()
            tail = f"\nthe end of its standard error:\n{stderr[-1500:]}" if stderr else ""
            kind = str(last.get("kind"))
            failure = DeviceBusy if kind == "locked" else JobFailed
            raise failure(f"{self.name}: {last.get('message')}{tail}", kind)
        if last.get("event") != "done":
            tail = done.stderr.decode(errors="replace").strip()[-1500:]
            raise TargetError(
                f"{self.name}: the agent's answer to {do!r} broke off (exit {done.returncode})"
                + (f"; the end of its standard error:\n{tail}" if tail else "")
            )
        return events

    def push(self, files: Mapping[str, Path], folder: str = "objects") -> dict[str, str]:
        """Bring files to the device, named by their sha256 (the mapping's keys); nothing that is there travels again.

        Returns digest -> path on the device. The device itself computes every hash.
        """
        places = {
            digest: f"{self.target.workdir}/{folder}/{digest}{path.suffix}" for digest, path in files.items()
        }
        self._bring({places[digest]: (digest, path) for digest, path in files.items()})
        return places

    def _bring(self, wanted: Mapping[str, tuple[str, Path]], unpacked_bytes: int = 0) -> None:
        """See that each place on the device holds the file with this sha256; `unpacked_bytes` come on top there.

        Room is made: what no run used for a month goes, and beyond the target's quota what was used longest ago.
        """
        stock = self.ask(
            "stock",
            files=[
                {"path": place, "sha256": digest, "bytes": path.stat().st_size}
                for place, (digest, path) in wanted.items()
            ],
            extra_bytes=unpacked_bytes,
            margin_bytes=MARGIN_BYTES,
            workdir=self.target.workdir,
            tidy={
                "folders": [f"{self.target.workdir}/{name}" for name in KEPT],
                "unused_s": UNUSED_S,
                "recent_s": RECENT_S,
                "quota_bytes": self.target.quota_mebibytes << 20,
            },
            deadline_s=LONG_S,
        )[-1]
        missing = {
            place: offset_to_go_on_from(path, stock["files"][place])
            for place, (_, path) in wanted.items()
            if not stock["files"][place]["whole"]
        }
        if stock["free"] < stock["needed"]:
            raise TargetError(
                f"{self.name}: {stock['needed'] / 1e6:,.0f} MB are needed in {self.target.workdir}, "
                f"{stock['free'] / 1e6:,.0f} MB are free",
                f"make room on the device's disk; `edgepipe clean --target {self.name}` removes what is ours",
            )
        for place, offset in missing.items():
            self._send_file(place, *wanted[place], offset)

    def _send_file(self, place: str, digest: str, path: Path, offset: int) -> None:
        size = path.stat().st_size
        try:
            self.ask(
                "receive",
                payload=chunks(path, offset),
                deadline_s=LONG_S + size / SLOWEST_BYTES_PER_S,
                path=place,
                sha256=digest,
                bytes=size,
                offset=offset,
                patience_s=PATIENCE_S,
            )
        except JobFailed as error:
            if error.kind != "damaged" or offset == 0:
                raise
            self._send_file(place, digest, path, 0)

    def fetch(self, source: str, destination: Path) -> None:
        """Copy a file from the device."""
        self._transport.get(source, destination, deadline_s=LONG_S)

    def install(
        self, model: str, digest: str, manifest: Mapping[str, Any], check: Any, check_deadline_s: float
    ) -> Event:
        """Switch a model that is on the device in; see the agent's `install`."""
        deadline_s = LONG_S + check_deadline_s + 2 * self.target.after_install_deadline_s
        job = {"model": model, "sha256": digest, "manifest": manifest, "check": check}
        return self.ask("install", deadline_s=deadline_s, **job, **self._place())[-1]

    def rollback(self) -> Event:
        """Switch the version before in."""
        deadline_s = LONG_S + 2 * self.target.after_install_deadline_s
        return self.ask("rollback", deadline_s=deadline_s, **self._place())[-1]

    def _place(self) -> dict[str, Any]:
        return {
            "install_path": self.target.install_path,
            "lock": self.lock,
            "restart": list(self.target.after_install),
            "restart_deadline_s": self.target.after_install_deadline_s,
        }

    def clean(self, *, installed: bool) -> list[dict[str, Any]]:
        """Remove all that is ours from the device, with `installed` the installed model, too; each with its bytes."""
        workdir, install_path = self.target.workdir, self.target.install_path
        paths, folders = [f"{workdir}/{name}" for name in KEPT], [workdir]
        if installed:
            paths += [f"{install_path}/{name}" for name in ("current", "current.partial", "versions")]
            folders.append(install_path)
        found = self.ask("clean", paths=paths, folders=folders, lock=self.lock, deadline_s=LONG_S)[-1]
        removed: list[dict[str, Any]] = found["removed"]
        return removed

    def provision(self, say: Callable[[str], None]) -> Provisioned:
        """See that the device has its runtime, and a Python; from here on that one runs the agent."""
        if self.probe.root and self.target.transport != "local":
            say(ROOT)
        self._python = self._own_python
        provisioned = provide(self, say)
        self._python = provisioned.python
        return provisioned

    def bring(self, archive: Path, place: str) -> None:
        """See that an archive is at `place` on the device, and room to unpack it; by the agent where it can run."""
        unpacked = unpacked_size(archive)
        if self._python is not None:
            with archive.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            self._bring({place: (digest, archive)}, unpacked)
            return
        needed, free = archive.stat().st_size + unpacked + MARGIN_BYTES, self.probe.free_kib
        if free is not None and free * 1024 < needed:
            raise TargetError(
                f"{self.name}: {needed / 1e6:,.0f} MB are needed in {self.target.workdir}, "
                f"{free * 1024 / 1e6:,.0f} MB are free",
                "make room on the device's disk",
            )
        self._transport.put(archive, place, deadline_s=LONG_S)

    def run(self, argv: list[str], deadline_s: float) -> tuple[int, str]:
        """Run a command there: its exit code, and the end of what it wrote to standard error."""
        done = self._transport.run(argv, deadline_s=deadline_s)
        return done.returncode, done.stderr.decode(errors="replace")

    def _put_bytes(self, content: bytes, destination: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "file")
            path.write_bytes(content)
            self._transport.put(path, destination, deadline_s=SHORT_S)


@contextmanager
def open_transport(name: str, target: TargetBase) -> Iterator[Transport]:
    """Connect; the connection ends with the block. Raises `TargetError`."""
    try:
        transport = connect(target)
    except TargetError as error:
        raise TargetError(f"{name}: {error.message}", error.remedy) from None
    try:
        yield transport
    finally:
        transport.close()


@contextmanager
def open_device(name: str, target: TargetBase, lease: Lease | None = None) -> Iterator[Device]:
    """Connect, probe, bring the agent; the connection ends with the block. Raises `TargetError`.

    Under a lease, the device itself refuses its jobs once the farm has lent it again.
    """
    with open_transport(name, target) as transport:
        yield Device(name, target, transport, lease)

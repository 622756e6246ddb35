"""A device we hold a connection to: the agent is on it, files go there by content, jobs are asked of it."""

from __future__ import annotations

import hashlib
import itertools
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from targets.agent_archive import build_agent
from targets.errors import TargetError
from targets.privacy import ROOT, make_private
from targets.probe import Probe, probe
from targets.provisioning.bundle import Bundle, build_bundle
from targets.provisioning.runtimes import choose
from targets.pushing import chunks, offset_to_go_on_from, unpacked_size
from targets.target import TargetBase, connect, python_of
from targets.transports import Transport

Event = dict[str, Any]
PROTOCOL = 1
SHORT_S = 60.0
LONG_S = 900.0
UNUSED_S = 30 * 86400.0
# What is left free beside what is sent: outputs, manifests, logs of others.
MARGIN_BYTES = 16 << 20
SLOWEST_BYTES_PER_S = 50_000
REMEDIES = {
    "locked": "wait for the other run to end",
    "disk": "free some space on the device",
    "deadline": "raise measure.step_deadline_s, or look what holds the device up",
}


class JobFailed(TargetError):
    """The agent's own word that a job failed; `kind` is the failure's, see `device_agents`."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message, REMEDIES.get(kind, ""))
        self.kind = kind


@dataclass(frozen=True)
class Provisioned:
    """The runtime on a device: its name, and the folder and digest of its bundle there."""

    runtime: str
    folder: str
    digest: str


class Device:
    """An open connection. Use `open_device`, which ends it as well."""

    def __init__(self, name: str, target: TargetBase, transport: Transport) -> None:
        self.name = name
        self.target = target
        self._transport = transport
        self._python = python_of(target)
        content, self.agent_digest = build_agent()
        self._agent = f"{target.workdir}/agents/agent-{self.agent_digest[:16]}.pyz"
        self.probe: Probe = probe(transport, self._python, self._agent)
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
        events: list[Event] = []

        def receive(line: bytes) -> None:
            try:
                event = json.loads(line)
            except ValueError:
                raise TargetError(f"the agent on {self.name} sent no JSON: {line[:120]!r}") from None
            events.append(event)
            if on_event is not None and event.get("event") not in ("done", "error"):
                on_event(event)

        request = json.dumps({"version": PROTOCOL, "do": do, **job}).encode() + b"\n"
        done = self._transport.run(
            [self._python, self._agent],
            stdin=itertools.chain([request], payload),
            deadline_s=deadline_s,
            on_line=receive,
        )
        last = events.pop() if events else {}
        if last.get("event") == "error":
            stderr = str(last.get("stderr") or "").strip()
            tail = f"\nthe end of its standard error:\n{stderr[-1500:]}" if stderr else ""
            raise JobFailed(f"{self.name}: {last.get('message')}{tail}", str(last.get("kind")))
        if last.get("event") != "done":
            tail = done.stderr.decode(errors="replace").strip()[-1500:]
            raise TargetError(
                f"{self.name}: the agent's answer to {do!r} broke off (exit {done.returncode})"
                + (f"; the end of its standard error:\n{tail}" if tail else "")
            )
        return events

    def push(self, files: Mapping[str, Path]) -> dict[str, str]:
        """Bring files to the device, named by their sha256 (the mapping's keys); nothing that is there travels again.

        Returns digest -> path on the device. The device itself computes every hash.
        """
        places = {
            digest: f"{self.target.workdir}/objects/{digest}{path.suffix}" for digest, path in files.items()
        }
        self._bring({places[digest]: (digest, path) for digest, path in files.items()})
        return places

    def _bring(self, wanted: Mapping[str, tuple[str, Path]], unpacked_bytes: int = 0) -> None:
        """See that each place on the device holds the file with this sha256; `unpacked_bytes` come on top there."""
        files = [{"path": place, "sha256": digest} for place, (digest, _) in wanted.items()]
        stock = self.ask("stock", files=files, folders=[], workdir=self.target.workdir, deadline_s=LONG_S)[-1]
        missing = {
            place: offset_to_go_on_from(path, stock["files"][place])
            for place, (_, path) in wanted.items()
            if not stock["files"][place]["whole"]
        }
        unsent = sum(wanted[place][1].stat().st_size - offset for place, offset in missing.items())
        needed = unsent + unpacked_bytes + MARGIN_BYTES
        if missing and stock["free"] < needed:
            raise TargetError(
                f"{self.name}: {needed / 1e6:,.0f} MB are needed in {self.target.workdir}, "
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
            )
        except JobFailed as error:
            if error.kind != "damaged" or offset == 0:
                raise
            self._send_file(place, digest, path, 0)

    def fetch(self, source: str, destination: Path) -> None:
        """Copy a file from the device."""
        self._transport.get(source, destination, deadline_s=LONG_S)

    def tidy(self) -> None:
        """Remove from the device what no run used for a month; the version installed is not among it."""
        folders = [f"{self.target.workdir}/{name}" for name in ("agents", "objects", "outputs", "bundles")]
        self.ask("tidy", folders=folders, unused_s=UNUSED_S, deadline_s=LONG_S)

    def provision(self, say: Callable[[str], None]) -> Provisioned:
        """See that the device has its runtime."""
        if self.probe.root and self.target.transport != "local":
            say(ROOT)
        runtime = choose(self.target.runtime, self.probe)
        bundle = build_bundle(runtime, self.probe)
        folder = f"{self.target.workdir}/bundles/{bundle.digest[:16]}"
        found = self.ask("verify", folder=folder, digest=bundle.digest, deadline_s=LONG_S)
        if not found[-1]["ok"]:
            say(f"sending {runtime.name} ({bundle.archive.stat().st_size / 1e6:.0f} MB)")
            self._send(bundle, folder)
        return Provisioned(runtime.name, folder, bundle.digest)

    def _send(self, bundle: Bundle, folder: str) -> None:
        archive = f"{folder}.tar.gz"
        with bundle.archive.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        self._bring({archive: (digest, bundle.archive)}, unpacked_size(bundle.archive))
        self.ask(
            "unpack", archive=archive, into=folder, digest=bundle.digest, lock=self.lock, deadline_s=LONG_S
        )

    def _put_bytes(self, content: bytes, destination: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "file")
            path.write_bytes(content)
            self._transport.put(path, destination, deadline_s=SHORT_S)


@contextmanager
def open_device(name: str, target: TargetBase) -> Iterator[Device]:
    """Connect, probe, bring the agent; the connection ends with the block. Raises `TargetError`."""
    try:
        transport = connect(target)
    except TargetError as error:
        remedy = "; ".join(filter(None, (error.remedy, target.when_unreachable)))
        raise TargetError(f"{name}: {error.message}", remedy) from None
    try:
        yield Device(name, target, transport)
    finally:
        transport.close()

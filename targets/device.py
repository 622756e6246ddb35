"""A device we hold a connection to: the agent is on it, files go there by content, jobs are asked of it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from targets.agent_archive import build_agent
from targets.errors import TargetError
from targets.probe import Probe, probe
from targets.provisioning import Provisioned, provide
from targets.target import TargetBase, connect, python_of
from targets.transports import Transport

Event = dict[str, Any]
PROTOCOL = 1
SHORT_S = 60.0
LONG_S = 900.0
UNUSED_S = 30 * 86400.0
REMEDIES = {
    "locked": "wait for the other run to end",
    "disk": "free some space on the device",
    "deadline": "raise measure.step_deadline_s, or look what holds the device up",
}


class Device:
    """An open connection. Use `open_device`, which ends it as well."""

    def __init__(self, name: str, target: TargetBase, transport: Transport) -> None:
        self.name = name
        self.target = target
        self._transport = transport
        python = python_of(target)
        content, self.agent_digest = build_agent()
        self._agent = f"{target.workdir}/agents/agent-{self.agent_digest[:16]}.pyz"
        self.probe: Probe = probe(transport, python, self._agent)
        # Where the device has no Python, the first job waits for the one that provisioning brings.
        self._python: tuple[str, ...] | None = (python,) if self.probe.python is not None else None
        if self.probe.agent != self.agent_digest:
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
        **job: Any,
    ) -> list[Event]:
        """Run one job of the agent's and return its events; `on_event` sees each as it arrives.

        Raises `TargetError` when the agent says so, when the stream breaks off, or past the deadline.
        """
        if self._python is None:
            self.provision(lambda text: None)
        assert self._python is not None
        return self.ask_with(self._python, do, deadline_s, on_event, **job)

    def ask_with(
        self,
        python: tuple[str, ...],
        do: str,
        deadline_s: float,
        on_event: Callable[[Event], None] | None = None,
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

        request = json.dumps({"version": PROTOCOL, "do": do, **job}).encode() + b"\n"
        done = self._transport.run(
            [*python, self._agent], stdin=request, deadline_s=deadline_s, on_line=receive
        )
        last = events.pop() if events else {}
        if last.get("event") == "error":
            kind, stderr = last.get("kind", ""), str(last.get("stderr") or "").strip()
            tail = f"\nthe end of its standard error:\n{stderr[-1500:]}" if stderr else ""
            raise TargetError(f"{self.name}: {last.get('message')}{tail}", REMEDIES.get(kind, ""))
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
        missing = self._wrong(places)
        for digest in missing:
            self._transport.put(files[digest], places[digest], deadline_s=LONG_S)
        if missing and (wrong := self._wrong({digest: places[digest] for digest in missing})):
            raise TargetError(
                f"{self.name}: {len(wrong)} file(s) arrived damaged: {', '.join(d[:12] for d in wrong)}"
            )
        return places

    def fetch(self, source: str, destination: Path) -> None:
        """Copy a file from the device."""
        self._transport.get(source, destination, deadline_s=LONG_S)

    def tidy(self) -> None:
        """Remove from the device what no run used for a month; the version installed is not among it."""
        folders = [f"{self.target.workdir}/{name}" for name in ("agents", "objects", "outputs", "bundles")]
        self.ask("tidy", folders=folders, unused_s=UNUSED_S, deadline_s=LONG_S)

    def provision(self, say: Callable[[str], None]) -> Provisioned:
        """See that the device has its runtime, and a Python; from here on that one runs the agent."""
        provisioned = provide(self, say)
        self._python = provisioned.python
        return provisioned

    def put(self, source: Path, destination: str) -> None:
        """Copy a file to the device."""
        self._transport.put(source, destination, deadline_s=LONG_S)

    def run(self, argv: list[str], deadline_s: float) -> tuple[int, str]:
        """Run a command there: its exit code, and the end of what it wrote to standard error."""
        done = self._transport.run(argv, deadline_s=deadline_s)
        return done.returncode, done.stderr.decode(errors="replace")

    def _wrong(self, places: Mapping[str, str]) -> list[str]:
        """The digests whose file on the device is missing or another."""
        found = self.ask("hash", paths=list(places.values()), deadline_s=LONG_S)[-1]["files"]
        return [digest for digest, path in places.items() if (found.get(path) or {}).get("sha256") != digest]

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

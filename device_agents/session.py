"""`measure`: the steps of one session, in the order given, each in a process of its own.

A fresh process has no warm caches, no heap and no high-water mark of an earlier step's. It is started from
this small launcher because a child inherits the peak memory that getrusage reports.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from device_agents import child, environment, lock, own_python
from device_agents.channel import Emit
from device_agents.failure import Failure
from device_agents.job import Job
from device_agents.watch import Watch


def measure(job: Job, emit: Emit) -> None:
    """Take the lock, observe the device, run every step, observe it again. The first failure ends the
    session.
    """
    requests = [_request(job, step) for step in job.parts("steps")]
    deadline_s = job.seconds("step_deadline_s")
    with lock.held(job.path("lock")):
        emit({"event": "environment", "when": "before", **environment.observe()})
        for index, request in enumerate(requests):
            watch = Watch()
            event = _run(index, request, deadline_s)
            if "environment" in event:
                event["environment"].update(watch.seen())
            emit({**event, "step": index, "variant": request["variant"]})
        emit({"event": "environment", "when": "after", **environment.observe()})


def _request(job: Job, step: Job) -> dict[str, Any]:
    """All that one worker needs to know, checked before the first of them starts."""
    kind, variant = step.text("kind"), step.text("variant")
    request = {
        "kind": kind,
        "variant": variant,
        "model": job.part("variants").existing(variant),
        "inputs": job.existing_paths("inputs"),
        "bundle": None if job.fields.get("bundle") is None else job.path("bundle"),
        "runtime": job.text("runtime"),
        "threads": job.integer("threads", 1),
    }
    if kind == "evaluate":
        return {**request, "outputs": step.paths("outputs")}
    if kind == "time":
        return {**request, "protocol": _protocol(job.part("protocol"))}
    raise Failure("job", f"expected {step.name}.kind to be evaluate or time. Received: {kind!r}")


def _protocol(protocol: Job) -> dict[str, Any]:
    min_samples = protocol.integer("min_samples", 1)
    return {
        "warmup_runs": protocol.integer("warmup_runs", 0),
        "warmup_seconds": protocol.seconds("warmup_seconds"),
        "max_warmup_seconds": protocol.seconds("max_warmup_seconds"),
        "min_samples": min_samples,
        "min_seconds": protocol.seconds("min_seconds"),
        "max_samples": protocol.integer("max_samples", min_samples),
        "max_seconds": protocol.seconds("max_seconds"),
        "interval": protocol.share("interval"),
    }


def _run(index: int, request: dict[str, Any], deadline_s: float) -> dict[str, Any]:
    """The event of one step, from its worker."""
    try:
        return in_worker(request, deadline_s)
    except Failure as failure:
        what = f"step {index} ({request['kind']} {request['variant']})"
        raise Failure(failure.kind, f"{what}: {failure.message}", step=index, stderr=failure.stderr) from None


def in_worker(request: dict[str, Any], deadline_s: float) -> dict[str, Any]:
    """The event of one step in a fresh process."""
    line = json.dumps(request).encode() + b"\n"
    return _answer(child.run(_worker(request["bundle"]), line, deadline_s=deadline_s))


def _worker(bundle: str | None) -> list[str]:
    # With a bundle, nothing else installed on the device may take part; without one, what is installed must.
    isolated = [] if bundle is None else ["-I", "-S"]
    return [*own_python.command(), *isolated, os.path.abspath(sys.argv[0]), "worker"]


def _answer(ended: child.Ended) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(ended.stdout)
    except ValueError:
        answer = {}
    if ended.returncode != 0 or not answer:
        raise Failure(
            "crashed", f"its process ended by {ended.cause} and left no result", stderr=ended.stderr
        )
    if "failure" in answer:
        raise Failure(answer["failure"]["kind"], answer["failure"]["message"], stderr=ended.stderr)
    result: dict[str, Any] = answer["result"]
    return result

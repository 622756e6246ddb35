"""`measure`: the steps of one session, in the order given, each in a process of its own.

A fresh process has no warm caches, no heap and no high-water mark of an earlier step's. It is started from
this small launcher because a child inherits the peak memory that getrusage reports.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

from device_agents import (
    child,
    controls,
    cooling,
    energy,
    environment,
    lock,
    own_python,
    page_cache,
    placement,
)
from device_agents.channel import Emit
from device_agents.failure import Failure
from device_agents.job import Job
from device_agents.watch import Watch


def measure(job: Job, emit: Emit) -> None:
    """Take the lock, observe the device, run every step, observe it again, then run those that are to heat it. The
    first failure ends the session.
    """
    requests = [_request(job, step, number) for number, step in enumerate(job.parts("steps"))]
    deadline_s = job.seconds("step_deadline_s")
    heating = [request for request in requests if request["kind"] in ("sustain", "spend")]
    settings = controls.wanted(_controls(job))
    with lock.of(job), controls.held(job.path("lock"), **settings) as told:
        before = environment.observe()
        emit({"event": "environment", "when": "before", **before, "controls": told})
        for request in requests:
            if request not in heating:
                emit(_watched(request, deadline_s))
        emit({"event": "environment", "when": "after", **environment.observe()})
        for request in heating:
            cooling.rest(request["cool_down_seconds"], before["temperatures_c"])
            emit(_watched(request, deadline_s))


def _watched(request: dict[str, Any], deadline_s: float) -> dict[str, Any]:
    """The event of one step, and what went on beside it."""
    watch = Watch()
    event = _observed(request, deadline_s + _longer(request))
    if "environment" in event:
        event["environment"].update(watch.seen())
    return {**event, "step": request["step"], "variant": request["variant"]}


def _observed(request: dict[str, Any], deadline_s: float) -> dict[str, Any]:
    """The event of a step; beside one that is to show what the device spends, its meters are read."""
    if request["kind"] != "spend":
        return _run(request, deadline_s)
    return energy.observed(lambda: _run(request, deadline_s), request["idle_seconds"])


def _controls(job: Job) -> Job:
    return Job({}, f"{job.name}.controls") if job.fields.get("controls") is None else job.part("controls")


def _request(job: Job, step: Job, number: int) -> dict[str, Any]:
    """All that one worker needs to know, checked before the first of them starts."""
    kind, variant = step.text("kind"), step.text("variant")
    request = {
        "step": number,
        "kind": kind,
        "variant": variant,
        "model": job.part("variants").existing(variant),
        "inputs": job.existing_paths("inputs"),
        **how_to_run(job),
    }
    if kind in ("time", "cold", "sustain", "spend"):
        request["placement"] = placement.wanted(_controls(job))
    if kind == "evaluate":
        return {**request, "outputs": step.paths("outputs"), "look": True}
    if kind == "profile":
        return {**request, "seconds": step.seconds("seconds")}
    if kind == "time":
        protocol = job.part("protocol")
        return {**request, "protocol": _protocol(protocol), "deadline": _deadline(protocol)}
    if kind == "cold":
        return request
    if kind == "sustain":
        return {**request, **{key: step.seconds(key) for key in ("seconds", "cool_down_seconds")}}
    if kind == "spend":
        spans = ("seconds", "idle_seconds", "cool_down_seconds")
        return {**request, **{key: step.seconds(key) for key in spans}}
    expected = "evaluate, time, cold, profile, sustain or spend"
    raise Failure("job", f"expected {step.name}.kind to be {expected}. Received: {kind!r}")


def how_to_run(job: Job) -> dict[str, Any]:
    """What a worker needs to know of the interpreter: where it comes from, and the setting that it runs models in."""
    given = job.part("delegate") if job.fields.get("delegate") else None
    return {
        "bundle": None if job.fields.get("bundle") is None else job.path("bundle"),
        "runtime": job.text("runtime"),
        "setting": {
            "threads": job.integer("threads", 1),
            "xnnpack": job.truth("xnnpack", True),
            "delegate": None if given is None else given.existing("path"),
            "options": {} if given is None else given.mapping("options"),
        },
    }


def _longer(request: dict[str, Any]) -> float:
    """Seconds that a step takes by order, which are none of its deadline's."""
    paced: dict[str, float] = request.get("deadline") or {}
    return float(request.get("seconds", 0.0)) + paced.get("seconds", 0.0)


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


def _deadline(protocol: Job) -> dict[str, float] | None:
    if protocol.fields.get("deadline") is None:
        return None
    deadline = protocol.part("deadline")
    found = {key: deadline.seconds(key) for key in ("period_ms", "deadline_ms", "seconds")}
    if not found["period_ms"]:
        raise Failure("job", f"expected {deadline.name}.period_ms to be above zero")
    return found


def _run(request: dict[str, Any], deadline_s: float) -> dict[str, Any]:
    """The event of one step, from its worker."""
    try:
        return _looking(request, deadline_s)
    except Failure as failure:
        what = f"step {request['step']} ({request['kind']} {request['variant']})"
        message = f"{what}: {failure.message}"
        raise Failure(failure.kind, message, step=request["step"], stderr=failure.stderr) from None


def _looking(request: dict[str, Any], deadline_s: float) -> dict[str, Any]:
    """The event of a step. Looking into the runtime, or at the page cache, may take a process down; that it does not
    tell is all that comes of it.
    """
    try:
        return in_worker(request, deadline_s)
    except Failure as failure:
        looks = request["kind"] in ("evaluate", "cold", "profile")
        if failure.kind not in ("crashed", "forbidden") or not looks:
            raise
        if request["kind"] == "cold":
            return page_cache.not_cold(None, f"its process failed: {failure.message}")
        unknown = {"reason": f"looking at what runs failed: {failure.message}"}
        if request["kind"] == "profile":
            return {"event": "profiled", "operators": unknown}
        return {**in_worker({**request, "look": False}, deadline_s), "operators": unknown}


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
    if ended.returncode == -signal.SIGSYS:
        raise Failure(
            "forbidden",
            "its process was ended for a system call that the device's sandbox does not allow (SIGSYS)",
            stderr=ended.stderr,
        )
    if ended.returncode != 0 or not answer:
        raise Failure(
            "crashed", f"its process ended by {ended.cause} and left no result", stderr=ended.stderr
        )
    if "failure" in answer:
        raise Failure(answer["failure"]["kind"], answer["failure"]["message"], stderr=ended.stderr)
    result: dict[str, Any] = answer["result"]
    return result

"""`trial`: a runtime is imported as a measurement would, in a worker, before anything else depends on it."""

from __future__ import annotations

from device_agents import session
from device_agents.channel import Emit
from device_agents.job import Job


def trial(job: Job, emit: Emit) -> None:
    """Answer with the versions that a worker found. Raises Failure of whatever ended it."""
    request = {
        "kind": "trial",
        "bundle": None if job.fields.get("bundle") is None else job.path("bundle"),
        "runtime": job.text("runtime"),
    }
    emit(session.in_worker(request, job.seconds("step_deadline_s")))

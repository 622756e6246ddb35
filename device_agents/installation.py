"""The installed model: versions/<digest>/{model.tflite,manifest.json}, and `current`, a link to one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

from device_agents import lock, restarting, session
from device_agents.channel import Emit
from device_agents.failure import Failure
from device_agents.files import replacing, sha256_of, sync_folder
from device_agents.job import Job


def install(job: Job, emit: Emit) -> None:
    """`install`: put a model and its manifest in place; both change in one rename of the link `current`.

    Then the installed file must give the `golden` answers of `check`, if there is one, and the command `restart` end
    well; else the version before is switched in again. That one stays in any case, older ones go. Power may fail at
    any point: `current` is whole before and after.
    """
    model, digest, manifest = job.existing("model"), job.text("sha256"), job.mapping("manifest")
    folder = job.path("install_path")
    with lock.of(job):
        actual = sha256_of(model)
        if actual != digest:
            raise Failure(
                "job", f"expected {model} to have SHA-256 {digest}. Received: {actual}; send it again"
            )
        version = os.path.join("versions", digest[:16])
        previous = _digest_or_none(os.path.join(folder, "current", "model.tflite"))
        _fill(os.path.join(folder, version), model, digest, manifest)
        before = _target(os.path.join(folder, "current"))
        path = os.path.join(folder, "current", "model.tflite")
        try:
            with _switched(job, os.path.join(folder, "current"), version):
                health = _check(job.part("check"), path) if job.fields.get("check") else None
                restarted = _restart(job)
        except BaseException:
            if before != version:
                # Else it would be what a rollback takes for the version before.
                shutil.rmtree(os.path.join(folder, version), ignore_errors=True)
            raise
        if before != version:
            _forget(os.path.join(folder, "versions"), {version, before})
    emit({"event": "installed", "path": path, "previous": previous, "health": health, "restart": restarted})


def rollback(job: Job, emit: Emit) -> None:
    """`rollback`: switch the version before in, once its hash is known to be right; the one in place now stays."""
    folder = job.path("install_path")
    link, versions = os.path.join(folder, "current"), os.path.join(folder, "versions")
    with lock.of(job):
        others = [
            name
            for name in (os.listdir(versions) if os.path.isdir(versions) else [])
            if os.path.join("versions", name) != _target(link)
        ]
        if _target(link) is None or not others:
            raise Failure("job", f"there is no version before the one installed in {folder}")
        name = max(others, key=lambda name: os.stat(os.path.join(versions, name)).st_mtime)
        manifest = _manifest(os.path.join(versions, name, "manifest.json"))
        digest = _digest_or_none(os.path.join(versions, name, "model.tflite"))
        if manifest is None or manifest["sha256"] != digest:
            raise Failure("damaged", f"the version before, {os.path.join(versions, name)}, is damaged")
        with _switched(job, link, os.path.join("versions", name)):
            restarted = _restart(job)
    emit({"event": "rolled back", "manifest": manifest, "restart": restarted})


@contextlib.contextmanager
def _switched(job: Job, link: str, version: str) -> Iterator[None]:
    """Point the link to a version for good, or back to what it was when the block fails, whatever ends it."""
    before = _target(link)
    _point(link, version)
    try:
        yield
    except BaseException as error:
        if before is None:
            os.unlink(link)
            now = "nothing is installed now"
        else:
            _point(link, before)
            now = "the version before is in place again"
        if not isinstance(error, Failure):
            raise
        if error.kind == "restart" and before is not None:
            try:
                _restart(job)
            except Failure as again:
                now += f", but the application did not take it up: {again.message}"
        raise Failure(error.kind, f"{error.message}; {now}", stderr=error.stderr) from None


def _check(check: Job, model: str) -> dict[str, Any]:
    request = {
        "kind": "check",
        "model": model,
        "inputs": check.existing_paths("inputs"),
        "golden": check.existing_paths("golden"),
        **session.how_to_run(check),
    }
    event = session.in_worker(request, check.seconds("deadline_s"))
    return {"samples": event["samples"], "difference": event["difference"]}


def _restart(job: Job) -> dict[str, Any] | None:
    if not job.fields.get("restart"):
        return None
    return restarting.restart(job.texts("restart"), job.seconds("restart_deadline_s"))


def _fill(version: str, model: str, digest: str, manifest: dict[str, Any]) -> None:
    os.makedirs(version, exist_ok=True)
    kept = os.path.join(version, "model.tflite")
    if _digest_or_none(kept) != digest:
        with open(model, "rb") as source, replacing(kept) as target:
            shutil.copyfileobj(source, target, 1 << 20)
    with replacing(os.path.join(version, "manifest.json")) as target:
        target.write(json.dumps(manifest, indent=1, sort_keys=True).encode() + b"\n")
    sync_folder(os.path.dirname(version))


def _point(link: str, version: str) -> None:
    partial = f"{link}.partial"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(partial)
    try:
        os.symlink(version, partial)
    except PermissionError as error:
        raise Failure(
            "disk", f"{link} must be on a filesystem that has symbolic links ({error.strerror})"
        ) from None
    os.replace(partial, link)
    sync_folder(os.path.dirname(link))


def _target(link: str) -> str | None:
    try:
        return os.readlink(link)
    except OSError:
        return None


def _forget(versions: str, kept: set[str | None]) -> None:
    for name in os.listdir(versions):
        if os.path.join("versions", name) not in kept:
            shutil.rmtree(os.path.join(versions, name), ignore_errors=True)


def _digest_or_none(path: str) -> str | None:
    return sha256_of(path) if os.path.isfile(path) else None


def status(job: Job, emit: Emit) -> None:
    """`status`: whether a model is installed, its manifest (null when it cannot be read), and whether both are
    still what was installed.
    """
    current = os.path.join(job.path("install_path"), "current")
    if not os.path.lexists(current):
        emit({"event": "status", "installed": False, "manifest": None, "model_ok": None})
        return
    digest = _digest_or_none(os.path.join(current, "model.tflite"))
    manifest = _manifest(os.path.join(current, "manifest.json"))
    whole = digest is not None and digest.startswith(os.path.basename(os.path.realpath(current)))
    ok = whole and manifest is not None and manifest["sha256"] == digest
    emit({"event": "status", "installed": True, "manifest": manifest, "model_ok": ok})


def _manifest(path: str) -> dict[str, Any] | None:
    try:
        with open(path, "rb") as stream:
            found = json.load(stream)
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) and "sha256" in found else None

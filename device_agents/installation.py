"""The installed model: versions/<digest>/{model.tflite,manifest.json}, and `current`, a link to one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from typing import Any

from device_agents import lock
from device_agents.channel import Emit
from device_agents.failure import Failure
from device_agents.files import replacing, sha256_of, sync_folder
from device_agents.job import Job


def install(job: Job, emit: Emit) -> None:
    """`install`: put a model and its manifest in place; both change in one rename of the link `current`.

    The version before stays, older ones go. Power may fail at any point: `current` is whole before and after.
    """
    model, digest, manifest = job.existing("model"), job.text("sha256"), job.mapping("manifest")
    folder = job.path("install_path")
    with lock.held(job.path("lock")):
        actual = sha256_of(model)
        if actual != digest:
            raise Failure(
                "job", f"expected {model} to have SHA-256 {digest}. Received: {actual}; send it again"
            )
        version = os.path.join("versions", digest[:16])
        previous = _digest_or_none(os.path.join(folder, "current", "model.tflite"))
        _fill(os.path.join(folder, version), model, digest, manifest)
        before = _target(os.path.join(folder, "current"))
        _point(os.path.join(folder, "current"), version)
        if before != version:
            _forget(os.path.join(folder, "versions"), {version, before})
    path = os.path.join(folder, "current", "model.tflite")
    emit({"event": "installed", "path": path, "previous": previous})


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

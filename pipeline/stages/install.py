"""Install: the winner and its manifest are switched in on the device, in one step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from pipeline.artifacts import Artifact
from pipeline.result import Installed
from pipeline.sparse_tflite.signature import read_signature
from targets.device import Device

MANIFEST_VERSION = 1


def manifest(
    model: Artifact,
    variant: str,
    encodings: Sequence[str],
    runtime: str,
    labels: Sequence[str],
    plan: str,
    run: str,
) -> dict[str, Any]:
    """What lies beside an installed model, for the application that uses it and for `edgepipe status`."""
    content = model.path.read_bytes()
    signature = read_signature(content, model.path.name).model_dump(mode="json")
    return {
        "manifest_version": MANIFEST_VERSION,
        "sha256": model.digest,
        "bytes": len(content),
        **signature,
        "labels": list(labels),
        "runtime": runtime,
        "variant": variant,
        "encodings": sorted(set(encodings)) if variant == "sparse" else ["dense"],
        "plan": plan,
        "run": run,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def run(device: Device, model: Artifact, manifest: dict[str, Any]) -> Installed:
    """Switch `model` in at the target's `install_path`; the version before it stays beside it. Raises `TargetError`."""
    place = device.push({model.digest: model.path})[model.digest]
    event = device.ask(
        "install",
        model=place,
        sha256=model.digest,
        manifest=manifest,
        install_path=device.target.install_path,
        lock=device.lock,
    )[-1]
    return Installed(path=event["path"], digest=model.digest, previous=event["previous"])

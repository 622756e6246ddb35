"""Install: the winner and its manifest are switched in on the device, in one step."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts import Artifact, file_digest
from pipeline.models.samples import Samples, by_name
from pipeline.result import Installed
from pipeline.sparse_tflite.signature import read_signature
from pipeline.stages.deploy import Deployed
from targets.device import Device

MANIFEST_VERSION = 1
GOLDEN_SAMPLES = 4
CHECK_DEADLINE_S = 300.0


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


def run(
    device: Device,
    model: Artifact,
    manifest: dict[str, Any],
    deployed: Deployed | None = None,
    answers: Samples | None = None,
) -> Installed:
    """Switch `model` in at the target's `install_path`; the version before it stays beside it. Raises `TargetError`.

    With `answers`, its outputs for the inputs `deployed`, the installed file must give the first of them again, or the
    version before comes back; so it does when the target's `after_install` fails.
    """
    place = device.push({model.digest: model.path})[model.digest]
    with _golden(answers) as golden:
        digests = {name: file_digest(path) for name, path in golden.items()}
        places = device.push({digests[name]: path for name, path in golden.items()}, "outputs")
    outputs = {name: places[digest] for name, digest in digests.items()}
    check = None
    if deployed is not None and outputs:
        check = {
            "inputs": deployed.inputs,
            "golden": outputs[""] if list(outputs) == [""] else outputs,
            "bundle": deployed.bundle,
            "runtime": deployed.runtime,
            **device.target.setting,
            "deadline_s": CHECK_DEADLINE_S,
        }
    event = device.install(place, model.digest, manifest, check, CHECK_DEADLINE_S)
    return Installed(
        path=event["path"],
        digest=model.digest,
        previous=event["previous"],
        health=event["health"],
        after_install=event["restart"],
    )


@contextlib.contextmanager
def _golden(answers: Samples | None) -> Iterator[dict[str, Path]]:
    """The first answers of each output as a file."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for number, (name, array) in enumerate(by_name(answers).items() if answers is not None else ()):
            paths[name] = Path(folder, f"golden-{number}.npy")
            np.save(paths[name], array[:GOLDEN_SAMPLES])
        yield paths

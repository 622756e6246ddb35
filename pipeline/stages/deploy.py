"""Deploy: the runtime, the variants and the evaluation inputs go to the device; nothing that is there goes again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.artifacts import Artifact
from pipeline.progress import Say
from targets.device import Device


@dataclass(frozen=True)
class Deployed:
    """Paths on the device."""

    runtime: str
    bundle: str
    bundle_digest: str
    variants: dict[str, str]
    inputs: str


def run(device: Device, variants: Mapping[str, Artifact], inputs: Artifact, say: Say) -> Deployed:
    """Bring everything that measuring needs. Raises `TargetError`."""
    device.tidy()
    provisioned = device.provision(say)
    say("sending the model files")
    places = device.push({artifact.digest: artifact.path for artifact in (*variants.values(), inputs)})
    return Deployed(
        runtime=provisioned.runtime,
        bundle=provisioned.folder,
        bundle_digest=provisioned.digest,
        variants={name: places[artifact.digest] for name, artifact in variants.items()},
        inputs=places[inputs.digest],
    )

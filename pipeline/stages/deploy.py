"""Deploy: the runtime, the variants and the evaluation inputs go to the device; nothing that is there goes again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.artifacts import Artifact
from pipeline.progress import Say
from pipeline.sparse_tflite.signature import read_signature
from targets.device import Device


@dataclass(frozen=True)
class Deployed:
    """Paths on the device; the evaluation inputs of a model of several by their names, as `outputs` has its outputs'
    names where there are several."""

    runtime: str
    bundle: str | None
    bundle_digest: str | None
    provision: str
    variants: dict[str, str]
    inputs: str | dict[str, str]
    outputs: tuple[str, ...]


def run(
    device: Device, variants: Mapping[str, Artifact], inputs: Artifact | Mapping[str, Artifact], say: Say
) -> Deployed:
    """Bring everything that measuring needs; the variants have the same inputs and outputs. Raises `TargetError`."""
    several = inputs if isinstance(inputs, Mapping) else {"": inputs}
    outputs = _outputs(next(iter(variants.values())))
    provisioned = device.provision(say)
    say("sending the model files")
    files = (*variants.values(), *several.values())
    places = device.push({artifact.digest: artifact.path for artifact in files})
    sent = {name: places[artifact.digest] for name, artifact in several.items()}
    return Deployed(
        runtime=provisioned.runtime,
        bundle=provisioned.folder,
        bundle_digest=provisioned.digest,
        provision=f"{provisioned.way}: {provisioned.reason}",
        variants={name: places[artifact.digest] for name, artifact in variants.items()},
        inputs=sent if isinstance(inputs, Mapping) else sent[""],
        outputs=outputs if len(outputs) > 1 else (),
    )


def _outputs(model: Artifact) -> tuple[str, ...]:
    signature = read_signature(model.path.read_bytes(), model.path.name)
    return tuple(tensor.name for tensor in signature.outputs)

"""Convert: three .tflite variants from one run, and the proof that the sparse one answers as its dense twin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from pipeline.artifacts import Artifact, Store
from pipeline.errors import Disagreement
from pipeline.measurement.agreement import compare
from pipeline.models.data import spread
from pipeline.models.load import load_model
from pipeline.plan import PlanBase
from pipeline.progress import Say
from pipeline.sparse_tflite.fully_connected import make_sparse
from pipeline.sparse_tflite.keras_conversion import outputs_on_host, to_tflite

TOOLS = ("tensorflow", "keras", "numpy", "flatbuffers")
VARIANTS = ("baseline", "dense", "sparse")


class Options(BaseModel):
    """What this stage sees of the plan."""

    model_config = ConfigDict(frozen=True)

    precision: str
    agreement_samples: int


def options(plan: PlanBase) -> Options:
    """The part of the plan that this stage sees."""
    return Options(precision=plan.convert.precision, agreement_samples=plan.convert.agreement_samples)


def run(options: Options, inputs: Mapping[str, Artifact], store: Store, say: Say) -> dict[str, Artifact]:
    """Inputs: `baseline` and `pruned` (.keras, or .tflite as it came), `inputs` (evaluation set), `source`. Outputs:
    the variants, `report`.

    Raises `Disagreement` when sparse and dense differ by more than the limit.
    """
    say("baseline")
    baseline = _dense_file(inputs["baseline"], inputs.get("source"))
    say("pruned")
    evaluation = np.load(inputs["inputs"].path, mmap_mode="r")
    samples = evaluation[spread(len(evaluation), options.agreement_samples)]
    untouched = inputs["pruned"] == inputs["baseline"]
    dense = baseline if untouched else _dense_file(inputs["pruned"], inputs.get("source"))
    sparse, report = sparse_twin(dense, samples)
    say(f"baseline {len(baseline):,}, dense {len(dense):,}, sparse {len(sparse):,} bytes")
    contents = dict(zip(VARIANTS, (baseline, dense, sparse), strict=True))
    return {name: store.put("tflite", content) for name, content in contents.items()} | {
        "report": store.put_json(report)
    }


def _dense_file(model: Artifact, source: Artifact | None) -> bytes:
    """The model as a .tflite file of dense weights; one that came as such a file, its very bytes."""
    return model.path.read_bytes() if model.kind == "tflite" else to_tflite(load_model(model, source))


def sparse_twin(dense: bytes, samples: np.ndarray) -> tuple[bytes, dict[str, Any]]:
    """A dense file's sparse twin, and the report of encodings and of their agreement on `samples` (n, ...).

    Raises `Disagreement` when their answers differ by more than the limit on this machine.
    """
    sparse, decisions = make_sparse(dense)
    agreement = compare(outputs_on_host(dense, samples), outputs_on_host(sparse, samples))
    if not agreement.agrees:
        raise Disagreement(f"convert: nothing was deployed: on this machine {agreement.sentence}")
    encodings = [decision.model_dump() for decision in decisions]
    return sparse, {"encodings": encodings, "agreement": agreement.model_dump()}

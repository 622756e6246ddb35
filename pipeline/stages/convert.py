"""Convert: three .tflite variants from one run, and the proof that the sparse one answers as its dense twin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipeline.artifacts import Artifact, Store
from pipeline.errors import Disagreement
from pipeline.measurement.agreement import compare_all
from pipeline.models import data
from pipeline.models.data import load_samples, spread, store_samples
from pipeline.models.load import load_model
from pipeline.models.samples import Samples, as_type, by_name, in_order, of_names
from pipeline.plan import PlanBase
from pipeline.progress import Say
from pipeline.sparse_tflite import runtimes
from pipeline.sparse_tflite.fully_connected import make_sparse
from pipeline.sparse_tflite.host_interpreter import answers_on_host
from pipeline.sparse_tflite.keras_conversion import to_tflite
from pipeline.sparse_tflite.precision import Precision
from pipeline.sparse_tflite.quantum import output_quantum
from pipeline.sparse_tflite.signature import Signature, read_signature
from pipeline.sparse_tflite.suited import Suit, make_suited

TOOLS = ("tensorflow", "keras", "numpy", "flatbuffers")
VARIANTS = ("baseline", "dense", "sparse")


class Options(BaseModel):
    """What this stage sees of the plan."""

    model_config = ConfigDict(frozen=True)

    precision: Precision
    representative_samples: int
    agreement_samples: int
    suit: Suit | None = None


def options(plan: PlanBase) -> Options:
    """The part of the plan that this stage sees."""
    return Options(
        precision=plan.convert.precision,
        representative_samples=plan.convert.representative_samples if plan.convert.precision == "int8" else 0,
        agreement_samples=plan.convert.agreement_samples,
    )


def loaded_by_name(options: Options) -> list[Path]:
    """The source files that imports do not show: the runtimes' rules."""
    return (
        []
        if options.suit is None
        else [Path(runtimes.__path__[0], f"{name}.py") for name in runtimes.names()]
    )


def run(options: Options, inputs: Mapping[str, Artifact], store: Store, say: Say) -> dict[str, Artifact]:
    """Inputs: `baseline` and `pruned` (.keras, or .tflite as it came), `dataset`, `inputs` (evaluation set), `source`.
    Outputs: the variants, `report`, and `inputs` once more, in the types that the files take; several are each
    `inputs/NAME`.

    The baseline is in float32 whatever the precision of the others, so that the gates hold what it costs as well.
    Raises `Disagreement` when sparse and dense differ by more than the limit.
    """
    say("baseline")
    baseline = _dense_file(inputs["baseline"], inputs.get("source"))
    representative = None
    if options.precision == "int8":
        training = data.load(inputs["dataset"].path).x_train
        representative = training[spread(len(training), options.representative_samples)]
    say("pruned")
    evaluation = load_samples("inputs", inputs)
    samples = evaluation[spread(len(evaluation), options.agreement_samples)]
    untouched = inputs["pruned"] == inputs["baseline"] and options.precision == "float32"
    dense = (
        baseline
        if untouched
        else _dense_file(inputs["pruned"], inputs.get("source"), options.precision, representative)
    )
    sparse, report = sparse_twin(dense, samples, options.precision, options.suit)
    say(f"baseline {len(baseline):,}, dense {len(dense):,}, sparse {len(sparse):,} bytes")
    typed = _typed(evaluation, read_signature(dense, "the converted model"))
    contents = dict(zip(VARIANTS, (baseline, dense, sparse), strict=True))
    return {name: store.put("tflite", content) for name, content in contents.items()} | {
        "report": store.put_json(report),
        **store_samples("inputs", typed, store),
    }


def _dense_file(
    model: Artifact,
    source: Artifact | None,
    precision: Precision = "float32",
    representative: Samples | None = None,
) -> bytes:
    """The model as a .tflite file of dense weights; one that came as such a file, its very bytes."""
    if model.kind == "tflite":
        return model.path.read_bytes()
    return to_tflite(load_model(model, source), precision, representative)


def _typed(samples: Samples, signature: Signature) -> Samples:
    """The samples in the types of the file's inputs."""
    names = [tensor.name for tensor in signature.inputs]
    return of_names(
        [
            as_type(array, tensor.dtype)
            for array, tensor in zip(in_order(samples, names), signature.inputs, strict=True)
        ],
        names,
    )


def sparse_twin(
    dense: bytes,
    samples: Samples,
    precision: Precision = "float32",
    suit: Suit | None = None,
) -> tuple[bytes, dict[str, Any]]:
    """A dense file's sparse twin, and the report of encodings and of their agreement on `samples` of its inputs.

    Its weights are stored as it suits a runtime and a core, or else as all runtimes read them.
    Raises `Disagreement` when their answers differ by more than the limit on this machine.
    """
    if suit is None:
        sparse, decisions = make_sparse(dense)
    else:
        sparse, decisions = make_suited(dense, runtimes.load(suit[0]), suit[1])
    quantum = output_quantum(dense, "the converted model")
    expected, received = map(by_name, answers_on_host([dense, sparse], samples))
    agreement = compare_all(expected, received, precision, quantum)
    if not agreement.agrees:
        raise Disagreement(f"convert: nothing was deployed: on this machine {agreement.sentence}")
    encodings = [decision.model_dump() for decision in decisions]
    return sparse, {"encodings": encodings, "agreement": agreement.model_dump(), "quantum": quantum}

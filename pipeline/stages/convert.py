"""Convert: the baseline and the pruned model as dense .tflite files, and the samples in the types that these take."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from pipeline.artifacts import Artifact, Store
from pipeline.models import data
from pipeline.models.data import load_samples, spread, store_samples
from pipeline.models.load import load_model
from pipeline.models.samples import Samples, as_type, in_order, of_names
from pipeline.plan import PlanBase
from pipeline.progress import Say
from pipeline.sparse_tflite.keras_conversion import to_tflite
from pipeline.sparse_tflite.precision import Io, Precision
from pipeline.sparse_tflite.signature import Signature, read_signature

TOOLS = ("tensorflow", "keras", "numpy", "flatbuffers")


class Options(BaseModel):
    """What this stage sees of the plan."""

    model_config = ConfigDict(frozen=True)

    precision: Precision
    io: Io
    representative_samples: int


def options(plan: PlanBase) -> Options:
    """The part of the plan that this stage sees."""
    return Options(
        precision=plan.convert.precision,
        io=plan.convert.io,
        representative_samples=plan.convert.representative_samples if plan.convert.precision == "int8" else 0,
    )


def run(options: Options, inputs: Mapping[str, Artifact], store: Store, say: Say) -> dict[str, Artifact]:
    """Inputs: `baseline` and `pruned` (.keras, or .tflite as it came), `dataset`, `inputs` (evaluation set), `source`.
    Outputs: `baseline` and `dense`, and `inputs` once more, in the types that the files take; several are each
    `inputs/NAME`.

    The baseline is in float32 whatever the precision of the others, so that the gates hold what it costs as well.
    """
    say("baseline")
    baseline = _dense_file(inputs["baseline"], inputs.get("source"))
    representative = None
    if options.precision == "int8":
        training = data.load(inputs["dataset"].path).x_train
        representative = training[spread(len(training), options.representative_samples)]
    say("pruned")
    untouched = inputs["pruned"] == inputs["baseline"] and options.precision == "float32"
    dense = baseline
    if not untouched:
        dense = _dense_file(
            inputs["pruned"], inputs.get("source"), options.precision, representative, options.io
        )
    say(f"baseline {len(baseline):,}, dense {len(dense):,} bytes")
    typed = _typed(load_samples("inputs", inputs), read_signature(baseline, "the converted model"))
    return {
        "baseline": store.put("tflite", baseline),
        "dense": store.put("tflite", dense),
        **store_samples("inputs", typed, store),
    }


def _dense_file(
    model: Artifact,
    source: Artifact | None,
    precision: Precision = "float32",
    representative: Samples | None = None,
    io: Io = "float",
) -> bytes:
    """The model as a .tflite file of dense weights; one that came as such a file, its very bytes."""
    if model.kind == "tflite":
        return model.path.read_bytes()
    return to_tflite(load_model(model, source), precision, representative, io)


def _typed(samples: Samples, signature: Signature) -> Samples:
    """The samples in the types of the file's inputs."""
    names = [tensor.name for tensor in signature.inputs]
    return of_names(
        [
            as_type(array, tensor.taken)
            for array, tensor in zip(in_order(samples, names), signature.inputs, strict=True)
        ],
        names,
    )

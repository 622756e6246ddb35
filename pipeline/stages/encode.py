"""Encode: the sparse twin for a runtime and a core, and the proof that it answers as the dense file does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from pipeline.artifacts import Artifact, Store
from pipeline.errors import Disagreement
from pipeline.measurement.agreement import Agreement, compare_all
from pipeline.models.data import load_samples, spread, store_samples
from pipeline.models.samples import Samples, by_name, of_names
from pipeline.plan import PlanBase
from pipeline.progress import Say
from pipeline.sparse_tflite import rewrites, runtimes
from pipeline.sparse_tflite.eligible import Rewritten, make_eligible
from pipeline.sparse_tflite.host_interpreter import answers_on_host
from pipeline.sparse_tflite.precision import Precision
from pipeline.sparse_tflite.quantum import output_quantum
from pipeline.sparse_tflite.random_inputs import random_inputs
from pipeline.sparse_tflite.storing import make_sparse
from pipeline.sparse_tflite.suited import Suit, make_suited, refuse_missing

TOOLS = ("tensorflow", "numpy", "flatbuffers")
NAME = "the converted model"
COPIED_BYTES = 256 << 20


class Options(BaseModel):
    """What this stage sees of the plan, and what it is carried out for."""

    model_config = ConfigDict(frozen=True)

    precision: Precision
    agreement_samples: int
    rewrites: Literal["auto", "none"] | tuple[str, ...]
    suit: Suit | None = None


def options(plan: PlanBase) -> Options:
    """The part of the plan that this stage sees."""
    return Options(
        precision=plan.convert.precision,
        agreement_samples=plan.convert.agreement_samples,
        rewrites=plan.convert.rewrites,
    )


def loaded_by_name(options: Options) -> list[Path]:
    """The source files that imports do not show: the rewrites, and the runtimes' rules."""
    found = [Path(rewrites.__path__[0], f"{name}.py") for name in rewrites.names()]
    if options.suit is not None:
        found += [Path(runtimes.__path__[0], f"{name}.py") for name in runtimes.names()]
    return found


def run(options: Options, inputs: Mapping[str, Artifact], store: Store, say: Say) -> dict[str, Artifact]:
    """Inputs: `baseline`, `dense` (as converted) and `inputs` (evaluation set).
    Outputs: `dense` (with the rewrites that help), `sparse`, `report`, and by `answers-VARIANT` what each of the three
    answers on this machine to all of the evaluation set.

    Raises `Disagreement` when sparse and dense differ by more than the limit, `UserError` when the runtime has not
    all of the operators.
    """
    evaluation = load_samples("inputs", inputs)
    samples = evaluation[spread(len(evaluation), options.agreement_samples)]
    dense = inputs["dense"].path.read_bytes()
    if options.suit is not None:
        refuse_missing(inputs["baseline"].path.read_bytes(), NAME, options.suit)
    twins = make_twins(dense, samples, options.precision, options.suit, options.rewrites)
    say(f"dense {len(twins.dense):,}, sparse {len(twins.sparse):,} bytes")
    files = {
        "baseline": inputs["baseline"].path.read_bytes(),
        "dense": twins.dense,
        "sparse": twins.sparse,
    }
    say(f"answering {len(evaluation):,} samples on this machine")
    answers = _answers(list(dict.fromkeys(files.values())), evaluation)
    kept = {
        name: store_samples(f"answers-{name}", answers[content], store) for name, content in files.items()
    }
    return {
        "dense": store.put("tflite", twins.dense),
        "sparse": store.put("tflite", twins.sparse),
        "report": store.put_json(twins.report),
        **{key: artifact for each in kept.values() for key, artifact in each.items()},
    }


def _answers(contents: list[bytes], evaluation: Samples) -> dict[bytes, Samples]:
    """What each file answers to all samples; so many at a time as a copy of them may take."""
    size = sum(array[:1].nbytes for array in by_name(evaluation).values())
    step = max(1, COPIED_BYTES // max(1, size))
    parts = [answers_on_host(contents, evaluation[at : at + step]) for at in range(0, len(evaluation), step)]
    found: dict[bytes, Samples] = {}
    for content, answers in zip(contents, zip(*parts, strict=True), strict=True):
        several = [by_name(each) for each in answers]
        names = list(several[0])
        found[content] = of_names([np.concatenate([each[name] for each in several]) for name in names], names)
    return found


class Twins(BaseModel):
    """A dense file, the sparse one that answers alike, and the report of both."""

    model_config = ConfigDict(frozen=True)

    dense: bytes
    sparse: bytes
    report: dict[str, Any]


def make_twins(
    dense: bytes,
    samples: Samples,
    precision: Precision = "float32",
    suit: Suit | None = None,
    wanted: Literal["auto", "none"] | tuple[str, ...] = "none",
) -> Twins:
    """A dense file with the rewrites that help, its sparse twin, and the report of rewrites, encodings and agreement.

    The weights are stored as it suits a runtime and a core, or where one is not known as all runtimes read them.
    Agreement is on `samples` of the inputs. Raises `Disagreement` when answers differ by more than the limit on this
    machine, `UserError` for an operator that the runtime, where it is known, does not have.
    """
    rewritten = make_eligible(dense, wanted, suit, NAME)
    if rewritten.content != dense:
        _check_rewritten(dense, rewritten, samples, precision)
    if suit is None or suit[1] is None:
        sparse, decisions = make_sparse(rewritten.content)
    else:
        sparse, decisions = make_suited(rewritten.content, runtimes.load(suit[0]), suit[1])
    if suit is not None:
        refuse_missing(rewritten.content, NAME, suit)
        refuse_missing(sparse, NAME, suit)
    agreement = _agreement(rewritten.content, sparse, samples, precision)
    if not agreement.agrees:
        raise Disagreement(f"encode: nothing was deployed: on this machine {agreement.sentence}")
    report = {
        "rewrites": rewritten.done,
        "rewrites_reason": rewritten.reason,
        "encodings": [decision.model_dump() for decision in decisions],
        "agreement": agreement.model_dump(),
        "quantum": output_quantum(rewritten.content, NAME),
    }
    return Twins(dense=rewritten.content, sparse=sparse, report=report)


def _check_rewritten(dense: bytes, rewritten: Rewritten, samples: Samples, precision: Precision) -> None:
    """A rewrite is exact or it is none: on the samples, and on random inputs, which look into other corners."""
    for inputs in (samples, random_inputs(dense, NAME)):
        agreement = _agreement(dense, rewritten.content, inputs, precision)
        if not agreement.agrees:
            raise Disagreement(
                f"encode: nothing was deployed: with the rewrites {', '.join(rewritten.done)} the model answers "
                f"otherwise on this machine ({agreement.greatest_difference} of the greatest output); "
                "convert.rewrites: none leaves them out"
            )


def _agreement(one: bytes, other: bytes, samples: Samples, precision: Precision) -> Agreement:
    ours, theirs = map(by_name, answers_on_host([one, other], samples))
    return compare_all(ours, theirs, precision, output_quantum(one, NAME))

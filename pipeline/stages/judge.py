"""Judge: from a device's answers and times to validity, agreement, gates, winner and verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.artifacts import Artifact
from pipeline.errors import ExitCode
from pipeline.measurement import beside_host, gates, validity, verdict, winner
from pipeline.measurement.agreement import compare_all
from pipeline.measurement.measurement import Measurement
from pipeline.measurement.statistics import summarise
from pipeline.measurement.validity import Validity
from pipeline.measurement.verdict import Verdict
from pipeline.models import metrics
from pipeline.models.samples import Samples, by_name
from pipeline.plan import PlanBase
from pipeline.stages.measure import Session


def measurements_of(
    session: Session, variants: Mapping[str, Artifact], emulated: bool
) -> dict[str, Measurement]:
    """The session's measurements, as the device reported them."""
    return {
        name: Measurement(
            variant=name,
            digest=artifact.digest,
            emulated=emulated,
            repetitions=session.repetitions[name],
            cold=session.cold.get(name, ()),
            sustained=session.sustained.get(name),
            spent=session.spent.get(name),
            metric=None,
        )
        for name, artifact in variants.items()
    }


def with_metric(
    measurements: Mapping[str, Measurement],
    session: Session,
    metric: str,
    source: Artifact | None,
    targets: Samples,
    output: str | None = None,
) -> dict[str, Measurement]:
    """The same, each with the metric of the answers that the device gave; answers that are no numbers have none."""
    found = {}
    for name, measurement in measurements.items():
        outputs = session.outputs[name]
        finite = all(np.isfinite(array).all() for array in by_name(outputs).values())
        value = metrics.evaluate(metric, source, targets, outputs, output) if finite else None
        found[name] = measurement.model_copy(update={"metric": value})
    return found


def run(
    plan: PlanBase,
    session: Session,
    measurements: dict[str, Measurement],
    file_bytes: dict[str, int],
    emulated: bool,
    quantum: float = 0.0,
    host: Mapping[str, Samples] | None = None,
) -> dict[str, Any]:
    """The fields of a `TargetResult` that judging fills, the headline and the exit code among them.

    `quantum` is the step between neighbouring outputs of the dense and the sparse file; `host` is what the host answers
    with each variant to the same samples.
    """
    valid = validity.check(measurements, session.environment, plan.measure.repetitions)
    judged: dict[str, Any] = {
        "measurements": measurements,
        "environment": session.environment,
        "operators": session.operators,
        "validity": valid,
        "agreement": compare_all(
            by_name(session.outputs["dense"]),
            by_name(session.outputs["sparse"]),
            plan.convert.precision,
            quantum,
        ),
        "beside_host": {
            name: beside_host.compare(
                by_name(session.outputs[name]), by_name(answers), plan.convert.precision, quantum
            )
            for name, answers in (host or {}).items()
        },
    }
    if valid.state == "invalid":
        return judged | _ended(ExitCode.DEVICE, f"invalid measurement, nothing installed: {valid.reasons[0]}")
    summaries = {name: summarise(measurement) for name, measurement in measurements.items()}
    held = {
        name: gates.hold(
            plan.gates, summaries[name], summaries["baseline"], file_bytes[name], plan.metric.better, emulated
        )
        for name in winner.CANDIDATES
    }
    judged |= {"summaries": summaries, "gates": held}
    if not judged["agreement"].agrees:
        return judged | _ended(
            ExitCode.GATE, f"nothing installed: on the device {judged['agreement'].sentence}"
        )
    chosen = winner.choose(measurements, held, file_bytes)
    if chosen is None:
        failed = [
            f"{name}: {gate.sentence}"
            for name, row in held.items()
            for gate in row
            if not (gate.passed or gate.advisory)
        ]
        return judged | _ended(ExitCode.GATE, "nothing installed: " + "; ".join(failed))
    verdicts = verdict.against_baseline(
        measurements, summaries, file_bytes, chosen.variant, plan.metric.title, plan.metric.better
    )
    changed = measurements[chosen.variant].digest != measurements["baseline"].digest
    beside = _beside_baseline(verdicts) if changed else ""
    headline = f"{chosen.verdict}: {chosen.reason}{beside}{_doubt(valid)}"
    return judged | {"winner": chosen, "verdicts": verdicts} | _ended(ExitCode.PASS, headline)


def _ended(code: ExitCode, headline: str) -> dict[str, Any]:
    return {"exit_code": int(code), "headline": headline}


def _beside_baseline(verdicts: tuple[Verdict, ...]) -> str:
    """How fast the winner is beside the baseline, where the intervals tell: it may still be the slower one."""
    change = next((each.change for each in verdicts if each.metric == "p50_ms"), None)
    if change is None or change.low is None or change.high is None or change.low <= 1 <= change.high:
        return ""
    word = "slower" if change.low > 1 else "faster"
    return (
        f"; {word} than the baseline, {change.value:.3f} of the time ({change.low:.3f} to {change.high:.3f})"
    )


def _doubt(valid: Validity) -> str:
    return f" (suspect: {valid.reasons[0]})" if valid.state == "suspect" else ""

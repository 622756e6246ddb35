"""Judge: from a device's answers and times to validity, agreement, gates, winner and verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.artifacts import Artifact
from pipeline.errors import ExitCode
from pipeline.measurement import gates, validity, verdict, winner
from pipeline.measurement.agreement import Agreement, compare
from pipeline.measurement.measurement import Measurement
from pipeline.measurement.statistics import summarise
from pipeline.measurement.validity import Validity
from pipeline.models import metrics
from pipeline.plan import PlanBase
from pipeline.stages.measure import Session


def measurements_of(
    session: Session,
    variants: Mapping[str, Artifact],
    emulated: bool,
    metric: str | None = None,
    metric_source: Artifact | None = None,
    targets: np.ndarray | None = None,
) -> dict[str, Measurement]:
    """The session's measurements, with the metric of the answers that the device gave where there are targets."""
    found = {}
    for name, artifact in variants.items():
        value = None
        outputs = session.outputs.get(name)
        if metric is not None and targets is not None and outputs is not None and np.isfinite(outputs).all():
            value = metrics.evaluate(metric, metric_source, targets, outputs)
        found[name] = Measurement(
            variant=name,
            digest=artifact.digest,
            emulated=emulated,
            repetitions=session.repetitions[name],
            metric=value,
        )
    return found


def run(
    plan: PlanBase,
    session: Session,
    measurements: dict[str, Measurement],
    file_bytes: dict[str, int],
    emulated: bool,
) -> dict[str, Any]:
    """The fields of a `TargetResult` that judging fills, the headline and the exit code among them."""
    valid = validity.check(measurements, session.environment, plan.measure.repetitions)
    judged: dict[str, Any] = {
        "measurements": measurements,
        "environment": session.environment,
        "validity": valid,
        "agreement": compare(session.outputs["dense"], session.outputs["sparse"]),
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
        return judged | _ended(ExitCode.GATE, _disagreement(judged["agreement"]))
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
        measurements, summaries, file_bytes, chosen.variant, plan.metric.source, plan.metric.better
    )
    headline = f"{chosen.verdict}: {chosen.reason}" + _doubt(valid)
    return judged | {"winner": chosen, "verdicts": verdicts} | _ended(ExitCode.PASS, headline)


def _ended(code: ExitCode, headline: str) -> dict[str, Any]:
    return {"exit_code": int(code), "headline": headline}


def _doubt(valid: Validity) -> str:
    return f" (suspect: {valid.reasons[0]})" if valid.state == "suspect" else ""


def _disagreement(agreement: Agreement) -> str:
    if agreement.greatest_difference is None:
        return "nothing installed: on the device an output is not a finite number"
    return (
        f"nothing installed: on the device the sparse file differs from its dense twin by"
        f" {agreement.greatest_difference:.2g} of the greatest output (limit {agreement.limit:g})"
    )

"""A night's verdicts: every job judged in latency, memory, size and metric. What is missing is an alarm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from pipeline.farm import latency
from pipeline.farm.case import VARIANTS, Case, Metric, Session
from pipeline.measurement.error_rates import ErrorRates
from pipeline.measurement.measurement import Record
from pipeline.measurement.statistics import Estimate
from pipeline.measurement.verdict import MEMORY_NOISE_BYTES
from pipeline.models.metrics import worsening

Outcome = Literal["pass", "regressed", "unstable", "missing", "invalid"]
Rerun = Callable[[Sequence[Case]], Sequence[Sequence[Session]]]
# Beside latency; a file's size is what it is.
MEASURED_ANEW: tuple[Metric, ...] = ("memory", "metric")


class NightVerdict(Record):
    """One series of a night. `change` is candidate over baseline, of a metric the difference; `rates` are those of the
    device, of latencies; `layer` is where a regression was found."""

    plan: str
    target: str
    metric: Metric
    outcome: Outcome
    reason: str
    change: Estimate | None = None
    layer: Literal["in the night", "over nights", "exact"] | None = None
    rates: ErrorRates | None = None

    @property
    def alarm(self) -> bool:
        """Does it make the night red? All but a pass does."""
        return self.outcome != "pass"


def judge(cases: Sequence[Case], rerun: Rerun) -> tuple[NightVerdict, ...]:
    """Judge a night of all `cases`; `rerun` measures those that are suspected anew, each in sessions of their own. What
    it cannot measure it leaves out, and then nothing is confirmed: the series is invalid, for it was suspected.
    """
    refused = {number: why for number, case in enumerate(cases) if (why := _refusal(case))}
    judged = {number: case for number, case in enumerate(cases) if number not in refused}
    looks = {number: latency.look(case) for number, case in judged.items() if "latency" in case.judged}
    worse = {number: _exact(case, case.session) for number, case in judged.items() if case.session}
    suspected = [
        number
        for number, case in judged.items()
        if (number in looks and looks[number].suspected)
        or any(_above(case, name, worse[number][name]) for name in MEASURED_ANEW if name in case.judged)
    ]
    found = rerun([judged[number] for number in suspected]) if suspected else ()
    again = dict(zip(suspected, found, strict=True))
    in_the_night, over_nights = latency.alarms(looks, again, judged)
    verdicts: list[NightVerdict] = []
    for number, case in enumerate(cases):
        if number in refused:
            verdicts += [_verdict(case, name, *refused[number]) for name in case.judged]
            continue
        layer = "in the night" if number in in_the_night else "over nights" if number in over_nights else None
        if number in looks:
            verdicts.append(_latency(case, looks[number], layer, again.get(number)))
        verdicts += [
            _plain(case, name, worse[number][name], again.get(number))
            for name in worse[number]
            if name in case.judged
        ]
    return tuple(verdicts)


def _refusal(case: Case) -> tuple[Outcome, str] | None:
    """Why a case cannot be judged at all."""
    if case.session is None:
        return "missing", case.problem or "nothing was measured"
    absent = [
        name
        for name in VARIANTS
        if name not in case.session.measurements or len(case.session.measurements[name].repetitions) < 2
    ]
    if absent:
        return "missing", f"not measured: {', '.join(absent)}"
    if case.session.validity.state == "invalid":
        return "invalid", case.session.validity.reasons[0]
    return None


def _verdict(case: Case, name: str, outcome: Outcome, reason: str, **more: object) -> NightVerdict:
    fields = {"plan": case.plan, "target": case.target, "metric": name, "outcome": outcome, "reason": reason}
    return NightVerdict.model_validate({**fields, **more})


def _latency(
    case: Case, look: latency.Look, layer: str | None, again: Sequence[Session] | None
) -> NightVerdict:
    change = Estimate(
        value=float(np.exp(look.change)), low=float(np.exp(look.low)), high=float(np.exp(look.high))
    )
    known = {"change": change, "rates": look.rates}
    if layer == "over nights":
        said = f"{np.expm1(look.step):+.1%} since {look.nights_ago} nights ago, measured beside the canary"
        return _verdict(case, "latency", "regressed", said, layer=layer, **known)
    if layer:
        return _verdict(
            case, "latency", "regressed", f"{change.value - 1:+.1%} beside the baseline", layer=layer, **known
        )
    if look.suspected and not again:
        return _verdict(case, "latency", "invalid", "suspected, and could not be measured anew", **known)
    detectable = max(look.rates.detectable or 0.0, float(np.expm1(look.high - look.change)))
    if detectable > case.thresholds.detectable:
        said = f"too noisy: a slowdown below {detectable:.0%} would not be seen"
        return _verdict(case, "latency", "unstable", said, **known)
    said = "suspected, and not confirmed when measured anew" if look.suspected else "no change shown"
    if look.device_step is not None:
        said += f"; the device itself changed by {np.expm1(look.device_step):+.1%}: the canary shows it"
    return _verdict(case, "latency", "pass", said, **known)


def _exact(case: Case, session: Session) -> dict[Metric, float | None]:
    """By how much the candidate is worse than the baseline: shares, of the metric in its units; None: not known."""
    mine, base = session.memory("candidate"), session.memory("baseline")
    # Whole pages come and go by themselves.
    grown = mine - base if mine > base + MEMORY_NOISE_BYTES else min(mine - base, 0.0)
    metric, before = (session.measurements[name].metric for name in ("candidate", "baseline"))
    lost = None if metric is None or before is None else worsening(case.direction, before, metric)
    size = session.file_bytes["candidate"] / session.file_bytes["baseline"] - 1
    return {"memory": grown / max(base, 1.0), "size": size, "metric": lost}


def _above(case: Case, name: str, worse: float | None) -> bool:
    limits: Mapping[str, float] = case.thresholds.model_dump()
    return worse is not None and worse > limits[name] + 1e-9


def _plain(case: Case, name: str, worse: float | None, again: Sequence[Session] | None) -> NightVerdict:
    if worse is None:
        return _verdict(case, name, "missing", "the answers of candidate or baseline were no numbers")
    change = Estimate(value=worse if name == "metric" else 1 + worse, low=None, high=None)
    if not _above(case, name, worse):
        return _verdict(case, name, "pass", "no change for the worse", change=change)
    if name in MEASURED_ANEW:
        if not again:
            return _verdict(case, name, "invalid", "suspected, and could not be measured anew", change=change)
        anew = [_exact(case, session)[name] for session in again]
        if any(each is None for each in anew):
            said = "suspected, and what was measured anew gave no numbers"
            return _verdict(case, name, "invalid", said, change=change)
        if not all(_above(case, name, each) for each in anew):
            return _verdict(
                case, name, "pass", "suspected, and not confirmed when measured anew", change=change
            )
    said = f"worse by {worse:.4g}" if name == "metric" else f"{worse:+.1%} beside the baseline"
    return _verdict(case, name, "regressed", said, change=change, layer="exact")

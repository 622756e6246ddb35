"""A night in words: each verdict as a sentence, the device's error rates beside it."""

from __future__ import annotations

from pipeline.farm.judge import NightVerdict
from pipeline.measurement.error_rates import ErrorRates
from pipeline.reports import notation


def sentence(verdict: NightVerdict) -> str:
    """`regressed: +9.8% beside the baseline (1.098x [1.091, 1.105]; ...)`."""
    more = [each for each in (change(verdict), rates(verdict.rates)) if each]
    return f"{verdict.outcome}: {verdict.reason}" + (f" ({'; '.join(more)})" if more else "")


def change(verdict: NightVerdict) -> str:
    """Candidate over baseline, of the metric by how much it is worse; empty where nothing was compared."""
    if verdict.change is None:
        return ""
    value = verdict.change.value
    if verdict.metric == "metric":
        return f"{abs(value):.4g} {'worse' if value > 0 else 'better'}" if value else "the same"
    return notation.times(verdict.change)


def rates(found: ErrorRates | None) -> str:
    """What the device's own A/A pairs say of it: its measured false suspicions, and the smallest slowdown it shows."""
    if found is None or found.false_alarm_rate is None or found.false_alarm_bound is None:
        return ""
    nights = "1 A/A night" if found.nights == 1 else f"{found.nights} A/A nights"
    false = (
        f"{notation.share(found.false_alarm_rate)} of {nights} suspected falsely "
        f"(surely below {notation.share(found.false_alarm_bound)})"
    )
    return false + (
        "" if found.detectable is None else f", slowdowns of {notation.share(found.detectable)} seen"
    )

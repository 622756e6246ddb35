"""A night's end as the body of a webhook: documented JSON, or what Slack and Mattermost show."""

from __future__ import annotations

from collections import Counter
from typing import Any

from pipeline.farm.judge import NightVerdict
from pipeline.farm.night import Night
from pipeline.farm.notify import Form
from pipeline.reports.dashboard import NAMES, alarms

# Slack refuses a text of more than 3,000 characters; the rest is on the night's page.
MOST = 8
LONGEST = 120
LONGEST_ERROR = 1000


def body(night: Night, form: Form) -> dict[str, Any]:
    """The body in one of the forms."""
    if form == "json":
        return _document(night)
    bold = "*" if form == "slack" else "**"
    lines = [f"{bold}{_headline(night)}{bold}", *_lines(night, bold)]
    if form == "slack":
        return _slack(_headline(night), "\n".join(lines))
    return {"text": "\n".join(lines)}


def aborted(identity: str, nightly: str, created: str, error: str, form: Form) -> dict[str, Any]:
    """The body for a night that ended without verdicts, in one of the forms."""
    if form == "json":
        told = {"id": identity, "nightly": nightly, "created": created, "error": error}
        return {"event": "edgepipe.nightly.aborted", "schema_version": 1, "green": False, **told}
    bold = "*" if form == "slack" else "**"
    headline = f"{nightly}: aborted, nothing was judged"
    text = f"{bold}{headline}{bold}\n- {_quoted(error, LONGEST_ERROR)}\nnight {_quoted(identity)}"
    return _slack(headline, text) if form == "slack" else {"text": text}


def _document(night: Night) -> dict[str, Any]:
    """What docs/farm.md describes."""
    return {
        "event": "edgepipe.nightly",
        "schema_version": 1,
        "id": night.id,
        "nightly": night.nightly,
        "created": night.created,
        "finished": night.finished,
        "green": night.exit_code == 0,
        "exit_code": night.exit_code,
        "jobs": dict(Counter(job.ended for job in night.jobs)),
        "outcomes": dict(Counter(verdict.outcome for verdict in night.verdicts)),
        "alarms": [_alarm(night, verdict) for same in alarms(night) for verdict in same],
    }


def _alarm(night: Night, verdict: NightVerdict) -> dict[str, Any]:
    told = verdict.model_dump(
        mode="json", include={"plan", "target", "metric", "outcome", "layer", "reason", "change"}
    )
    return {**told, "emulated": night.job_of(verdict).emulated}


def _headline(night: Night) -> str:
    jobs = "1 job" if len(night.jobs) == 1 else f"{len(night.jobs)} jobs"
    if night.exit_code == 0:
        return f"{night.nightly}: green, {jobs}"
    missing = sum(job.ended == "missing" for job in night.jobs)
    found = f"{len(night.alarms)} of {len(night.verdicts)} series are alarms, {jobs}"
    return f"{night.nightly}: red, {found}" + (f", {missing} of them not measured" if missing else "")


def _lines(night: Night, bold: str) -> list[str]:
    found = alarms(night)
    lines = []
    for same in found[:MOST]:
        first = same[0]
        what = ", ".join(NAMES[each.metric] for each in same)
        label = " (EMULATED)" if night.job_of(first).emulated else ""
        layer = f", {first.layer}" if first.layer else ""
        series = _quoted(f"{first.plan} on {first.target}")
        lines.append(
            f"- {bold}{first.outcome}{bold}{layer}: {series}{label}, {what}: {_quoted(first.reason)}"
        )
    if len(found) > MOST:
        lines.append(f"- and {len(found) - MOST} more")
    return [*lines, f"night {_quoted(night.id)}"]


def _quoted(text: str, longest: int = LONGEST) -> str:
    """As code: what came from a device calls nobody by name and formats nothing."""
    plain = " ".join(text.split()).replace("`", "'")
    return f"`{plain if len(plain) <= longest else plain[: longest - 3] + '...'}`"


def _slack(headline: str, text: str) -> dict[str, Any]:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return {"text": headline, "blocks": [_block(text)]}


def _block(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text[:3000]}}

"""A night for the terminal, and as `summary.txt`."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.farm.judge import NightVerdict
from pipeline.farm.night import Night, NightJob
from pipeline.reports import night_words
from pipeline.reports.terminal import CONTROL

STYLES = {"pass": "green", "regressed": "bold red", "missing": "bold red"}
WIDTH = 120


def summary(night: Night) -> RenderableType:
    """Every job with its verdicts; in the end one line for all of them."""
    parts: list[RenderableType] = []
    for job in night.jobs:
        verdicts = [each for each in night.verdicts if (each.plan, each.target) == (job.plan, job.target)]
        parts += [*_heading(job), _table(verdicts)]
    return Group(*parts, _text(headline(night), "bold green" if night.exit_code == 0 else "bold red"))


def as_text(night: Night) -> str:
    """The same without colours."""
    console = Console(file=io.StringIO(), width=WIDTH, highlight=False, color_system=None)
    with console.capture() as captured:
        console.print(summary(night))
    return "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"


def headline(night: Night) -> str:
    """`GREEN: 3 jobs, 12 verdicts` or `RED: digits on rpi4: latency regressed; ...`."""
    alarms = night.alarms
    if not alarms:
        return f"GREEN: {len(night.jobs)} job{'s' * (len(night.jobs) != 1)}, {len(night.verdicts)} verdicts, no alarm"
    told = [
        f"{job.plan} on {job.target}: {what}"
        for job in night.jobs
        if (what := "; ".join(_alarmed(job, alarms)))
    ]
    return f"RED: {'; '.join(told)}"


def _alarmed(job: NightJob, alarms: Sequence[NightVerdict]) -> Iterator[str]:
    """`latency regressed`, or `all missing`."""
    mine = [each for each in alarms if (each.plan, each.target) == (job.plan, job.target)]
    for outcome in dict.fromkeys(each.outcome for each in mine):
        metrics = [each.metric for each in mine if each.outcome == outcome]
        yield f"{'all' if len(metrics) == len(job.judged) else ', '.join(metrics)} {outcome}"


def _heading(job: NightJob) -> Iterator[Text]:
    about = [each for each in (job.description, job.runtime, "EMULATED" if job.emulated else "") if each]
    yield _text(f"{job.plan} on {job.target}" + (f" ({', '.join(about)})" if about else ""), "bold")
    if job.emulated and "latency" not in job.judged:
        yield Text("an emulated device: its times and memory are not judged", style="yellow")


def _table(verdicts: Sequence[NightVerdict]) -> RenderableType:
    """A row for each verdict; one for all where they say the same."""
    if len({(each.outcome, each.reason) for each in verdicts}) == 1 and verdicts[0].change is None:
        said = f"  {verdicts[0].outcome}: {verdicts[0].reason}\n"
        return _text(said, STYLES.get(verdicts[0].outcome, "red"))
    table = Table("", "", "change", "why", box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for each in verdicts:
        device = night_words.rates(each.rates)
        why = f"{each.reason}{f'; the device: {device}' if device else ''}"
        outcome = Text(each.outcome, style=STYLES.get(each.outcome, "red"))
        table.add_row(each.metric, outcome, night_words.change(each), _text(why))
    return table


def _text(text: str, style: str = "") -> Text:
    """What came from a device or a file stands there as text, whatever is in it."""
    return Text(CONTROL.sub("?", text), style=style)

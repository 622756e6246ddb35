"""A night and those before it as one self-contained page; `dashboard.html.j2` says what is on it."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from pipeline import atomic
from pipeline.farm.dashboard import Dashboard
from pipeline.farm.judge import NightVerdict
from pipeline.farm.night import Night
from pipeline.farm.trends import Trend
from pipeline.reports import html, notation, trend_figures

# What nobody measured comes first: it is what nobody notices.
ORDER = ("missing", "invalid", "unstable", "regressed")
STYLES = {"pass": "good", "regressed": "bad", "missing": "bad", "invalid": "bad", "unstable": "doubt"}
STATES = {"up": "good", "too noisy": "doubt", "invalid": "bad", "missing": "bad"}
NAMES = {"latency": "latency", "memory": "memory", "size": "file size", "metric": "accuracy"}


def write(dashboard: Dashboard, folder: Path) -> Path:
    """Write `dashboard.html` into the night's folder."""
    path = folder / "dashboard.html"
    atomic.write(path, render(dashboard).encode())
    return path


def render(dashboard: Dashboard) -> str:
    """`dashboard.html`: nothing in it is loaded from anywhere, and every name in it is escaped."""
    night = dashboard.night
    figures = [trend_figures.trend(each) if each.points else None for each in dashboard.trends]
    metrics = sorted({job.metric for job in night.jobs if job.metric and job.variants})
    scatters = {metric: trend_figures.accuracy(night, metric) for metric in metrics}
    return html.page(
        "dashboard.html.j2",
        with_figures=bool(any(figures) or scatters),
        night=night,
        fleet=dashboard.fleet,
        trends=dashboard.trends,
        pages=dashboard.pages,
        figures=figures,
        scatters=scatters,
        alarms=alarms(night),
        numbers={(each.plan, each.target): at for at, each in enumerate(dashboard.trends, 1)},
        jobs={(job.plan, job.target): job for job in night.jobs},
        verdicts=lambda trend: _verdicts(dashboard, trend),
        notes=_notes,
        change=change,
        styles=STYLES,
        states=STATES,
        names=NAMES,
    )


def alarms(night: Night) -> list[list[NightVerdict]]:
    """What is missing first; verdicts of one job that have the same to tell are together."""
    found: dict[tuple[int, str, str, str, str], list[NightVerdict]] = defaultdict(list)
    for each in night.alarms:
        # Of a change, each metric has its own to tell.
        alone = each.metric if each.outcome == "regressed" else ""
        found[ORDER.index(each.outcome), each.plan, each.target, each.reason, alone].append(each)
    return [found[key] for key in sorted(found)]


def change(verdict: NightVerdict) -> str:
    """`+2.1 % [+1.9 %, +2.4 %]` beside the baseline; of the model's metric, by how much it is worse."""
    found = verdict.change
    if found is None:
        return "not known"
    if verdict.metric == "metric":
        return f"worse by {found.value:.4g}" if found.value > 0 else "no worse"
    return notation.ratio_as_change(found)


def _verdicts(dashboard: Dashboard, trend: Trend) -> list[NightVerdict]:
    return [
        each for each in dashboard.night.verdicts if (each.plan, each.target) == (trend.plan, trend.target)
    ]


def _notes(trend: Trend, at: int) -> list[str]:
    """What is to be said of one night of a series."""
    said = [] if trend.points[at].validity == "valid" else [str(trend.points[at].validity or "broken off")]
    said += [f"{each.of}: {each.change:+.1%} from here on" for each in trend.steps if each.at == at]
    said += [f"a new segment: {each.why}" for each in trend.breaks if each.at == at]
    return said

"""Plotly figures of a night's page, as data: the nights of a series, and what accuracy costs in time."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.farm.night import Night, NightJob
from pipeline.farm.trends import Trend, TrendPoint
from pipeline.reports.latency_figures import COLOURS, Figure

GREY, BLUE, ORANGE, GREEN, PURPLE = COLOURS
RED = "#d64541"
# From top to bottom, each with the share of the height that it takes.
PANES = {
    "y": ((0.70, 0.97), "candidate over baseline, in the night"),
    "y2": ((0.35, 0.62), "candidate over canary, over the nights"),
    "y3": ((0.0, 0.27), "median latency, ms"),
}
FORMAT = {"y": "+.1%", "y2": ".3~f", "y3": ",.4~r"}


def trend(found: Trend) -> Figure:
    """Three panes above each other, a night an instant: ratios with intervals, levels with steps, medians."""
    points = found.points
    label = " (EMULATED)" if found.emulated else ""
    layout: Figure = {
        "height": 620,
        "hovermode": "closest",
        "xaxis": {"type": "date", "anchor": "y3", "showgrid": False, "automargin": True},
        "shapes": [*_breaks(found), _line("y", 0)],
        "annotations": [_title(axis, text + label) for axis, (_, text) in PANES.items()],
        "legend": {"orientation": "h", "x": 0, "y": -0.08, "yanchor": "top"},
    }
    for axis, (domain, _) in PANES.items():
        name = f"yaxis{axis[1:]}"
        layout[name] = {"domain": domain, "tickformat": FORMAT[axis], "automargin": True, "nticks": 5}
    data = [_changes(points), _levels(found), _ratios(points), *_medians(points), *_steps(found)]
    return {"data": data, "layout": layout}


def accuracy(night: Night, metric: str) -> Figure:
    """Latency across, the metric upwards: a line a job, from its baseline to its candidate."""
    data = []
    jobs = [job for job in night.jobs if job.metric == metric]
    for at, job in enumerate(jobs):
        where = f"{job.plan} on {job.target}" + (" (EMULATED)" if job.emulated else "")
        shown = list(_measured(job))
        colour = COLOURS[1:][at % (len(COLOURS) - 1)]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": html.escape(where),
                "x": [ms for _, ms, _ in shown],
                "y": [value for _, _, value in shown],
                "text": [name for name, _, _ in shown],
                "marker": {
                    "color": colour,
                    "size": 11,
                    "symbol": ["circle-open" if name == "baseline" else "circle" for name, _, _ in shown],
                },
                "line": {"color": colour, "width": 1, "dash": "dot"},
                "hovertemplate": f"{html.escape(where)}<br>%{{text}}: %{{x:.4~g}} ms, %{{y:.4~g}}<extra></extra>",
            }
        )
    layout = {
        "height": 420,
        "xaxis": {"title": {"text": "median latency, ms"}, "type": "log", "automargin": True},
        "yaxis": {"title": {"text": html.escape(metric)}, "automargin": True},
        "showlegend": True,
        "legend": {"orientation": "h", "x": 0, "y": -0.25, "yanchor": "top"},
    }
    return {"data": data, "layout": layout}


def _measured(job: NightJob) -> Iterator[tuple[str, float, float]]:
    """Variant, milliseconds, metric."""
    for name in ("baseline", "candidate"):
        found = job.variants.get(name)
        if found is not None and found.p50_ms is not None and found.metric is not None:
            yield name, found.p50_ms.value, found.metric


def _trace(name: str, axis: str, points: Sequence[TrendPoint], values: Sequence[Any], colour: str) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": [point.started for point in points],
        "y": list(values),
        "yaxis": axis,
        "marker": {"color": colour, "size": 5},
        "line": {"color": colour, "width": 1.5},
        "hovertemplate": f"%{{x|%Y-%m-%d %H:%M}}<br>{name}: %{{y:{FORMAT[axis]}}}<extra></extra>",
    }


def _changes(points: Sequence[TrendPoint]) -> Figure:
    shown = [(point, point.change) for point in points if point.change is not None]
    changes = [change for _, change in shown]
    trace = _trace("beside the baseline", "y", [point for point, _ in shown], [], BLUE)
    trace |= {"mode": "markers", "showlegend": False, "y": [each.value - 1 for each in changes]}
    trace["error_y"] = {
        "type": "data",
        "symmetric": False,
        "array": [0 if each.high is None else each.high - each.value for each in changes],
        "arrayminus": [0 if each.low is None else each.value - each.low for each in changes],
        "thickness": 1,
        "width": 2,
        "color": BLUE,
    }
    return trace


def _ratios(points: Sequence[TrendPoint]) -> Figure:
    shown = [point for point in points if point.over_canary is not None]
    trace = _trace("beside the canary", "y2", shown, [point.over_canary for point in shown], PURPLE)
    return trace | {"mode": "markers", "showlegend": False}


def _levels(found: Trend) -> Figure:
    """A line of what the level was, broken where another segment begins."""
    anew = {each.at for each in found.breaks}
    shown: list[tuple[TrendPoint, float | None]] = []
    for at, point in enumerate(found.points):
        if at in anew:
            shown.append((point, None))
        if point.level is not None:
            shown.append((point, point.level))
    trace = _trace("level", "y2", [point for point, _ in shown], [level for _, level in shown], ORANGE)
    trace["line"] = {"color": ORANGE, "width": 2.5, "shape": "hv"}
    return trace | {"mode": "lines", "showlegend": False}


def _medians(points: Sequence[TrendPoint]) -> Iterator[Figure]:
    for name, colour in (("candidate", BLUE), ("baseline", GREY), ("canary", GREEN)):
        shown = [point for point in points if name in point.medians_ms]
        yield _trace(name, "y3", shown, [point.medians_ms[name] for point in shown], colour)


def _steps(found: Trend) -> Iterator[Figure]:
    """A diamond where a new level begins: of the candidate, or of the device as the canary shows it."""
    for of, axis, colour in (("candidate", "y2", RED), ("device", "y3", GREEN)):
        steps = [step for step in found.steps if step.of == of]
        points = [found.points[step.at] for step in steps]
        heights = [point.level if axis == "y2" else point.medians_ms.get("canary") for point in points]
        if steps:
            trace = _trace(f"step of the {of}", axis, points, heights, colour)
            trace["marker"] = {"color": colour, "size": 13, "symbol": "diamond-open", "line": {"width": 2}}
            trace["text"] = [f"{step.change:+.1%}" for step in steps]
            trace["hovertemplate"] = f"%{{x|%Y-%m-%d}}<br>the {of}: %{{text}} from here on<extra></extra>"
            yield trace | {"mode": "markers+text", "textposition": "top center"}


def _breaks(found: Trend) -> Iterator[Figure]:
    """A dotted line from top to bottom where another segment begins."""
    for each in found.breaks:
        at = found.points[each.at].started
        line = {"color": GREY, "width": 1.5, "dash": "dot"}
        yield {
            "type": "line",
            "xref": "x",
            "yref": "paper",
            "x0": at,
            "x1": at,
            "y0": 0,
            "y1": 0.97,
            "line": line,
        }


def _line(axis: str, height: float) -> Figure:
    line = {"color": GREY, "width": 1}
    across = {"xref": "paper", "x0": 0, "x1": 1, "yref": axis, "y0": height, "y1": height}
    return {"type": "line", "layer": "below", "line": line, **across}


def _title(axis: str, text: str) -> Figure:
    place = {
        "xref": "paper",
        "yref": "paper",
        "x": 0,
        "y": PANES[axis][0][1],
        "xanchor": "left",
        "yanchor": "bottom",
    }
    return {"text": text, "showarrow": False, "font": {"size": 12}, **place}

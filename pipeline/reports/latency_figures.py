"""Plotly figures of the raw latencies, as data: the browser makes the boxes from the samples."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from pipeline.measurement.measurement import Measurement

COLOURS = ("#8a94a6", "#3f83d8", "#e0872b", "#3ba57b", "#a86bc4")
Figure = dict[str, Any]


def figures(measurements: Mapping[str, Measurement], emulated: bool) -> dict[str, Figure]:
    """Title -> figure: all samples of each variant, and each process in the order in which they ran."""
    if not any(each.repetitions for each in measurements.values()):
        return {}
    axis = "latency, ms" + (" (EMULATED)" if emulated else "")
    return {
        "All samples of each variant": _by_variant(measurements, axis),
        "Each process, in the order they ran": _by_process(measurements, axis),
    }


def _by_variant(measurements: Mapping[str, Measurement], axis: str) -> Figure:
    data = []
    for at, (name, measurement) in enumerate(measurements.items()):
        samples = [_ms(ns) for repetition in measurement.repetitions for ns in repetition.samples_ns]
        data.append({"x": samples, "orientation": "h", "showlegend": False, **_box(name, at)})
    layout = {
        "height": 110 + 60 * len(data),
        "xaxis": {"title": {"text": axis}},
        "yaxis": {"autorange": "reversed", "automargin": True},
    }
    return {"data": data, "layout": layout}


def _by_process(measurements: Mapping[str, Measurement], axis: str) -> Figure:
    data = []
    for at, (name, measurement) in enumerate(measurements.items()):
        steps = [
            str(repetition.step + 1) for repetition in measurement.repetitions for _ in repetition.samples_ns
        ]
        samples = [_ms(ns) for repetition in measurement.repetitions for ns in repetition.samples_ns]
        data.append({"x": steps, "y": samples, **_box(name, at)})
    order = sorted(repetition.step for each in measurements.values() for repetition in each.repetitions)
    layout = {
        "height": 340,
        "xaxis": {
            "title": {"text": "step of the session"},
            "type": "category",
            "categoryorder": "array",
            "categoryarray": [str(step + 1) for step in order],
        },
        "yaxis": {"title": {"text": axis}, "automargin": True},
        "legend": {"orientation": "h", "x": 0, "y": -0.25, "yanchor": "top"},
    }
    return {"data": data, "layout": layout}


def _box(name: str, at: int) -> dict[str, Any]:
    # Plotly reads a little HTML in its texts; a name is no HTML.
    colour = COLOURS[at % len(COLOURS)]
    return {
        "type": "box",
        "name": html.escape(name),
        "marker": {"color": colour, "size": 3, "opacity": 0.6},
        "line": {"color": colour, "width": 1.5},
        "boxpoints": "outliers",
    }


def _ms(nanoseconds: int) -> float:
    return nanoseconds / 1e6

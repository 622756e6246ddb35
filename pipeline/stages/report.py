"""Report: the result document and its page, in the run's folder."""

from __future__ import annotations

from pathlib import Path

from pipeline import atomic, result
from pipeline.reports import html


def run(found: result.Result, runs: Path) -> Path:
    """Write `result.json` and `report.html` into `runs/<id>`, and point `runs/latest` there."""
    folder = runs / found.id
    result.save(found, folder)
    atomic.write(folder / "report.html", html.render(found).encode())
    atomic.point(runs / "latest", found.id)
    return folder

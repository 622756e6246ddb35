"""The result document as one self-contained page; `report.html.j2` says what is on it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from pipeline.reports import latency_figures, notation, variant_rows
from pipeline.result import Result

PLOTLY = "package_data/plotly.min.js"


def render(result: Result) -> str:
    """`report.html`: nothing in it is loaded from anywhere, and every name in it is escaped."""
    figures = {
        name: latency_figures.figures(target.measurements, target.emulated)
        for name, target in result.targets.items()
    }
    return page(
        "report.html.j2",
        with_figures=any(figures.values()),
        result=result,
        rows=variant_rows.rows,
        figures=figures,
        plan=json.dumps(result.plan, indent=2),
    )


def page(template: str, *, with_figures: bool, **shown: Any) -> str:
    """A page out of one of the templates here; with figures, what draws them is in it, too."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["zip"] = zip
    plotly = Markup(_plotly()) if with_figures else ""
    return environment.get_template(template).render(notation=notation, plotly=plotly, **shown)


def _plotly() -> str:
    """Plotly's JavaScript out of the installed package, found without importing it, fit for a <script> element."""
    found = importlib.util.find_spec("plotly")
    if found is None or not found.submodule_search_locations:
        raise RuntimeError("the package 'plotly' is not installed; expected it beside edgepipe")
    script = Path(found.submodule_search_locations[0], PLOTLY).read_text(encoding="utf-8")
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")

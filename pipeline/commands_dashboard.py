"""`edgepipe dashboard`: a night and those before it as one page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.command_options import HistoryUrl, Json
from pipeline.output import show

if TYPE_CHECKING:
    from pipeline.farm.dashboard import Dashboard
    from pipeline.farm.night import Night


def dashboard(
    night: Annotated[Path, typer.Argument(help="A night's folder.")] = Path("runs/latest-night"),
    url: HistoryUrl = "",
    as_json: Json = False,
) -> None:
    """Write a night's page anew: what changed, the devices, every series over the nights; a file, no server."""
    from pipeline.farm import night as nights

    folder = night if night.is_dir() else night.parent
    found, page = publish(nights.load(night), folder, url or None)
    show(found.model_dump(mode="json"), as_json, f"dashboard: {page}")


def publish(night: Night, folder: Path, url: str | None) -> tuple[Dashboard, Path]:
    """Write `dashboard.html` into the night's folder, and a page of each job that is an alarm; what is on the first,
    and where it is. Raises `UserError` where the history cannot be had."""
    from pipeline import atomic, result
    from pipeline.farm.dashboard import gather
    from pipeline.history.database import reading
    from pipeline.reports import dashboard as page
    from pipeline.reports import html

    # A page holds all that draws its figures, five megabytes: of what passed, the results alone are kept.
    for job in {(alarm.plan, alarm.target): night.job_of(alarm) for alarm in night.alarms}.values():
        if job.folder and (folder / job.folder / "result.json").is_file():
            run = html.render(result.load(folder / job.folder))
            atomic.write(folder / job.folder / "report.html", run.encode())
    with reading(url) as connection:
        found = gather(connection, night, folder)
    return found, page.write(found, folder)

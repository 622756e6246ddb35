"""`edgepipe history`: what was ever measured, listed, exported, added to, pruned."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.command_options import HistoryUrl, Json
from pipeline.output import show

history = typer.Typer(
    help="Every measurement ever taken: list, export, add, prune.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Plan = Annotated[str, typer.Option("--plan", help="Only of the plan of this name.")]
Target = Annotated[str, typer.Option("--target", "-t", help="Only of this target.")]
Variant = Annotated[str, typer.Option("--variant", help="Only of this variant: baseline, dense, sparse.")]
Since = Annotated[str, typer.Option("--since", help="Only from this day on: 2026-01-31.")]


@history.command("list")
def list_measurements(
    plan: Plan = "",
    target: Target = "",
    variant: Variant = "",
    since: Since = "",
    last: Annotated[int, typer.Option("--last", min=1, help="At most so many, the newest.")] = 50,
    url: HistoryUrl = "",
    as_json: Json = False,
) -> None:
    """Say what was measured when and where, the newest last."""
    from pipeline.history.database import reading
    from pipeline.history.read import Filter, rows

    with reading(url or None) as connection:
        found = list(rows(connection, Filter(plan, target, variant, since, last)))
    show(found, as_json, _table(found) if found else "nothing was measured yet, or nothing that fits")


@history.command("export")
def export_measurements(
    out: Annotated[Path, typer.Argument(help="The file to write: .csv, .json or .parquet.")],
    plan: Plan = "",
    target: Target = "",
    variant: Variant = "",
    since: Since = "",
    samples: Annotated[bool, typer.Option("--samples", help="The raw samples, too.")] = False,
    url: HistoryUrl = "",
    as_json: Json = False,
) -> None:
    """Write the measurements into one file for other tools."""
    from pipeline.history.database import reading
    from pipeline.history.export import check, export
    from pipeline.history.read import Filter

    check(out)
    with reading(url or None) as connection:
        count = export(connection, Filter(plan, target, variant, since), out, samples=samples)
    show({"file": str(out), "measurements": count}, as_json, f"{count} measurements written to {out}")


@history.command("add")
def add_runs(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs: runs/*.")],
    url: HistoryUrl = "",
    as_json: Json = False,
) -> None:
    """Add the measurements of runs that are not in the history yet."""
    from pipeline import result
    from pipeline.history.record import record

    documents = [result.load(run) for run in runs]
    added = {document.id: record(document, url or None) for document in documents}
    show(added, as_json, *[f"{run}: {count} measurements added" for run, count in added.items()])


@history.command("prune")
def prune_samples(
    older_than: Annotated[
        float, typer.Option("--older-than", min=0, help="Raw samples of so many days ago.")
    ],
    keep: Annotated[
        int, typer.Option("--keep", min=0, help="But never those of a series' last so many.")
    ] = 30,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many.")] = False,
    url: HistoryUrl = "",
    as_json: Json = False,
) -> None:
    """Remove old raw samples; all figures taken from them stay."""
    from pipeline.history.database import writing
    from pipeline.history.prune import prune

    with writing(url or None) as connection:
        count = prune(connection, older_than, keep, time.time(), dry_run=dry_run)
    said = "would lose" if dry_run else "lost"
    show(
        {"measurements": count, "dry_run": dry_run}, as_json, f"{count} measurements {said} their raw samples"
    )


def _table(found: list[dict[str, Any]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    from pipeline.reports import notation

    table = Table(box=None, pad_edge=False)
    for column in ("started", "plan", "target", "variant", "p50 ms", "metric", "validity", "raw"):
        table.add_column(column, no_wrap=column == "started")
    for row in found:
        started = notation.instant(row["started"])
        figures = ["-" if row[key] is None else f"{row[key]:.4g}" for key in ("p50_ms", "metric")]
        validity = f"{row['validity'] or 'broken off'}{', emulated' if row['emulated'] else ''}"
        rest = [*figures, validity, "yes" if row["raw"] else "pruned"]
        table.add_row(*map(Text, [started, row["plan"], row["target"], row["variant"], *rest]))
    return table

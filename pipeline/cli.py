"""The commands: read the input, call one function, say what came out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline import commands, locate
from pipeline.command_options import Host, Json, Settings, Target
from pipeline.commands_dashboard import dashboard
from pipeline.commands_devices import devices
from pipeline.commands_farm import baseline, farm, nightly
from pipeline.commands_history import history
from pipeline.commands_models import convert, lint, measure, prune, rewrite
from pipeline.commands_targets import accept, targets
from pipeline.entry import guarded
from pipeline.errors import UserError
from pipeline.output import show
from pipeline.progress import Progress

app = typer.Typer(
    name="edgepipe",
    help="Prune a trained Keras model, make it sparse TFLite, deploy it, and let the device's own evidence decide.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command line; every ending has its exit code, see `ExitCode`."""
    guarded(app)


@app.command()
def deploy(
    plan: Annotated[str, typer.Argument(help="The plan file.")] = "pipeline.yaml",
    target: Annotated[
        str, typer.Option("--target", "-t", help="One target or several: local,rpi4.")
    ] = "local",
    settings: Settings = None,
    host: Host = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would run.")] = False,
    as_json: Json = False,
) -> None:
    """Train, prune, convert, deploy, measure on the device, judge, install, report."""
    names = [name.strip() for name in target.split(",") if name.strip()]
    read, folder, targets = commands.read_all(plan, settings or [], names, host)
    if dry_run:
        planned = commands.dry_run(read, folder, targets)
        show(planned, as_json, *[f"{step['stage']}: {step['from']}" for step in planned["steps"]])
        return
    found = commands.deploy(read, folder, targets, Progress())
    from pipeline.reports import terminal

    where = f"report: runs/{found.id}/report.html"
    show(found.model_dump(mode="json"), as_json, terminal.summary(found), where)
    raise typer.Exit(found.exit_code)


app.command()(prune)
app.command()(convert)
app.command()(lint)
app.command()(rewrite)
app.command()(measure)
app.command("acceptance")(accept)
app.command()(nightly)
app.command()(dashboard)
app.add_typer(devices, name="devices")
app.add_typer(targets, name="targets")
app.add_typer(history, name="history")
app.add_typer(baseline, name="baseline")
app.add_typer(farm, name="farm")


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(help="A run's folder, for example runs/latest.")],
    after: Annotated[Path, typer.Argument(help="Another run's folder.")],
    as_json: Json = False,
) -> None:
    """Set two runs side by side."""
    from pipeline import comparison, result
    from pipeline.reports import terminal

    found = comparison.compare(result.load(before), result.load(after))
    show(found.model_dump(mode="json"), as_json, terminal.comparison_table(found))


@app.command()
def status(target: Target = "local", host: Host = "", as_json: Json = False) -> None:
    """Say what is installed on a device."""
    report = commands.status(target, locate.read_target(target, host=host))
    show(report, as_json, *_installed(report))


@app.command()
def rollback(target: Target, host: Host = "", as_json: Json = False) -> None:
    """Switch the version before the installed one in again; once more brings the newer one back."""
    report = commands.rollback(target, locate.read_target(target, host=host))
    manifest = report["manifest"]
    show(
        report, as_json, f"{target}: {manifest.get('variant')} of run {manifest.get('run')} is in place again"
    )


@app.command()
def clean(
    target: Target,
    host: Host = "",
    installed: Annotated[bool, typer.Option("--installed", help="The installed model, too.")] = False,
    as_json: Json = False,
) -> None:
    """Remove all that is ours from a device."""
    report = commands.clean(target, locate.read_target(target, host=host), installed=installed)
    lines = [f"removed {each['path']} ({each['bytes']:,} bytes)" for each in report["removed"]]
    show(report, as_json, *lines or [f"{target}: nothing of ours is there"])


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run's folder.")] = Path("runs/latest"), as_json: Json = False
) -> None:
    """Show a run again, and write its page anew from its result."""
    from pipeline import atomic, result
    from pipeline.reports import html, terminal

    found = result.load(run)
    page = (run if run.is_dir() else run.parent) / "report.html"
    atomic.write(page, html.render(found).encode())
    show(found.model_dump(mode="json"), as_json, terminal.summary(found), f"report: {page}")


@app.command()
def schema(
    document: Annotated[str, typer.Argument(help="result (of a deploy) or night.")] = "result",
) -> None:
    """Print the JSON Schema of a document."""
    from pipeline import result
    from pipeline.farm import night
    from pipeline.strict_yaml import suggest

    known = {"result": result.json_schema, "night": night.json_schema}
    if document not in known:
        raise UserError(f"{document}: no such document; {suggest(document, known)}")
    show(known[document](), True)


def _installed(report: dict[str, Any]) -> list[str]:
    if not report["installed"]:
        return [f"{report['target']}: nothing is installed"]
    manifest = report["manifest"]
    if manifest is None:
        return [f"{report['target']}: DAMAGED: the manifest cannot be read; deploy again"]
    state = "whole" if report["model_ok"] else "DAMAGED: its hash is not the manifest's; deploy again"

    def told(key: str) -> str:
        value = manifest.get(key, "unknown")
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

    return [
        f"{report['target']}: {told('variant')} of plan {told('plan')}, run {told('run')}",
        f"  {told('bytes')} bytes, sha256 {told('sha256')}, {state}",
        f"  runtime {told('runtime')}, encodings {told('encodings')}",
    ]

"""The commands: read the input, call one function, say what came out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline import commands, locate
from pipeline.command_options import Json
from pipeline.commands_dashboard import dashboard
from pipeline.commands_farm import baseline, nightly
from pipeline.commands_history import history
from pipeline.commands_targets import accept, targets
from pipeline.entry import guarded
from pipeline.errors import ExitCode, UserError
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
devices = typer.Typer(
    help="Emulated devices: bring them up and down.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(devices, name="devices")
app.add_typer(targets, name="targets")
app.add_typer(history, name="history")
app.command("acceptance")(accept)
app.command("nightly")(nightly)
app.command("dashboard")(dashboard)
app.add_typer(baseline, name="baseline")

Target = Annotated[str, typer.Option("--target", "-t", help="A target's name: rpi4 is targets/rpi4.yaml.")]
Host = Annotated[
    str, typer.Option("--host", help="[user@]host[:port], or adb's serial, instead of the target's own.")
]
Out = Annotated[Path, typer.Option("--out", help="The file to write.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="key=value, laid over the plan; may be repeated.")
]


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


@app.command()
def prune(
    model: Annotated[Path, typer.Argument(help="A .keras or .h5 model, or a SavedModel folder of Keras 2.")],
    out: Out,
    data: Annotated[Path, typer.Option("--data", help=".npz with x_train, y_train, x_test, y_test.")],
    method: Annotated[
        str, typer.Option("--method", help="magnitude, lamp, obd, hessian, neuron or hessian_units.")
    ] = "hessian",
    sparsity: Annotated[
        float | None,
        typer.Option("--sparsity", help="Share of weights, or of units, to remove; 0.8 if not given."),
    ] = None,
    metric: Annotated[
        str, typer.Option("--metric", help="accuracy, auc, mse, or file.py:function.")
    ] = "accuracy",
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Prune one model file: the metric before and after, and what became of each layer."""
    from pipeline.pruning.decision import LayerDecision
    from pipeline.reports import terminal

    share = [] if sparsity is None else [f"prune.sparsity={sparsity}"]
    chosen = [f"prune.method={method}", *share, *(settings or [])]
    report = commands.prune(model, data, out, metric, chosen, Progress())
    decisions = [LayerDecision.model_validate(each) for each in report["decisions"]]
    words = (
        f"{metric} {report['metric_before']:.4f} before, {report['metric_after']:.4f} after; written to {out}"
    )
    show(report, as_json, terminal.decisions_table(decisions), words)


@app.command()
def convert(
    model: Annotated[
        Path,
        typer.Argument(help="A .keras or .h5 model, a SavedModel folder of Keras 2, or a .tflite."),
    ],
    out: Out,
    target: Target = "local",
    precision: Annotated[
        str, typer.Option("--precision", help="float32, float16, dynamic_range or int8.")
    ] = "float32",
    io: Annotated[
        str, typer.Option("--io", help="What an int8 model takes and gives: float, int8 or uint8.")
    ] = "float",
    data: Annotated[
        Path | None,
        typer.Option("--data", help=".npz whose x_train tells int8 the ranges of what it computes."),
    ] = None,
    rewrites: Annotated[
        str, typer.Option("--rewrites", help="auto, none, or names with commas: see edgepipe rewrite.")
    ] = "auto",
    as_json: Json = False,
) -> None:
    """Convert one model to .tflite, weights stored as suits the target: sparse where that makes the file smaller."""
    wanted = commands.Conversion(precision, io, rewrites, data)
    report = commands.convert(model, out, target, wanted, Progress())
    lines = [f"rewritten: {name}, {count} times" for name, count in report["rewrites"].items()]
    lines += [
        f"{each['operator']} {each['tensor']}: {each['encoding']}; {each['reason']}"
        for each in report["encodings"]
    ]
    show(report, as_json, *lines, f"{report['bytes']:,} bytes written to {out}")


@app.command()
def lint(
    model: Annotated[Path, typer.Argument(help="A .tflite file.")],
    target: Target = "local",
    runtime: Annotated[
        str, typer.Option("--runtime", help="tflite-runtime or ai-edge-litert, instead of the target's own.")
    ] = "",
    core: Annotated[
        str, typer.Option("--core", help="x86, arm or arm-fp16, instead of the target's own.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Say of every operator what it does on a target, and what would help. Exit code 1: it would be wrong there."""
    from pipeline.reports import terminal

    report = commands.lint(model, target, runtime, core)
    show(report.model_dump(mode="json"), as_json, terminal.lint_tables(report))
    if report.bad:
        raise typer.Exit(ExitCode.GATE)


@app.command()
def rewrite(
    model: Annotated[Path, typer.Argument(help="A float32 .tflite model of batch 1.")],
    out: Out,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="A rewrite by its name; may be repeated. All if not given."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Bring a .tflite model inside the rules of sparse inference, with the same answers."""
    from pipeline.sparse_tflite import rewrites

    report = commands.rewrite(model, out, only or [], Progress())
    lines = [f"{rewrites.load(name).SENTENCE}: {count}" for name, count in report["rewrites"].items()]
    difference = f"{report['agreement']['greatest_difference']:.2g} of the greatest output"
    written = (
        f"{report['bytes']:,} bytes written to {out}; its answers differ by {difference} on this machine"
    )
    show(report, as_json, *lines, written)


@app.command()
def measure(
    model: Annotated[Path, typer.Argument(help="A float32 .tflite model of batch 1.")],
    target: Target = "local",
    host: Host = "",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A key of the plan's measure section: repetitions=4.")
    ] = None,
    operators: Annotated[
        bool, typer.Option("--operators", help="How long each operator takes, too: measure.operators=true.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure one .tflite file on a device, with random inputs."""
    from pipeline.measurement.operators import Operators
    from pipeline.reports import terminal

    chosen = [*(settings or []), *(["operators=true"] if operators else [])]
    report = commands.measure(model, target, host, chosen, Progress())
    ran = Operators.model_validate(report["operators"])
    show(report, as_json, *_measured(report), terminal.operators(ran))
    if report["validity"]["state"] == "invalid":
        raise typer.Exit(ExitCode.DEVICE)


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


@devices.command("up")
def devices_up(
    names: Annotated[list[str] | None, typer.Argument(help="Which; all when left out.")] = None,
) -> None:
    """Start emulated devices and wait until they answer."""
    from targets import emulation

    for name in _emulated(names):
        with Progress().step(f"{name}: up"):
            emulation.up(name)


@devices.command("down")
def devices_down(
    names: Annotated[list[str] | None, typer.Argument(help="Which; all when left out.")] = None,
) -> None:
    """End emulated devices; nothing of them stays."""
    from targets import emulation

    for name in _emulated(names):
        with Progress().step(f"{name}: down"):
            emulation.down(name)


@devices.command("list")
def devices_list(as_json: Json = False) -> None:
    """Say which emulated devices there are, and which are up."""
    from targets import emulation

    states = [emulation.status(name) for name in emulation.names()]
    show(
        [asdict(each) for each in states],
        as_json,
        *[f"{each.name}: {each.state} ({each.detail})" for each in states],
    )


def _emulated(names: list[str] | None) -> list[str]:
    from pipeline.strict_yaml import suggest
    from targets import emulation

    unknown = [name for name in names or [] if name not in emulation.names()]
    if unknown:
        raise UserError(
            *[f"{name}: no such emulated device; {suggest(name, emulation.names())}" for name in unknown]
        )
    return names or list(emulation.names())


def _measured(report: dict[str, Any]) -> list[str]:
    from pipeline.measurement.statistics import Summary

    label = " (emulated: no figure of the real device)" if report["emulated"] else ""
    lines = [f"{report['target']}, {report['runtime']}{label}: {report['validity']['state']}"]
    lines += [f"  {reason}" for reason in report["validity"]["reasons"]]
    lines += [
        f"  an invalid session came before this one, kept and not compared: {each['validity']['reasons'][0]}"
        for each in report["invalid_sessions"]
    ]
    if summary := report["summary"]:
        p50 = summary["p50_ms"]
        lines.append(f"p50 {p50['value']:.4g} ms, 95 % interval {p50['low']:.4g} to {p50['high']:.4g}")
        lines.append(f"p90 {summary['p90_ms']['value']:.4g} ms, p99 {summary['p99_ms']['value']:.4g} ms")
        lines.append(f"load {summary['load_ms']:.4g} ms, first inference {summary['first_ms']:.4g} ms")
        lines.append(f"memory added: {summary['peak_memory_bytes']:,} bytes at most")
        lines += Summary.model_validate(summary).sentences
    else:
        count = len(report["invalid_sessions"]) + 1
        sessions = "the session" if count == 1 else f"any of {count} sessions"
        lines.append(
            f"no figures, for {sessions} cannot be believed; raw samples are in --json. What to do: "
            "docs/measuring.md, A quiet device"
        )
    return lines


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

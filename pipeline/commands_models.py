"""The commands on one model file: `edgepipe prune`, `convert`, `lint`, `rewrite`, `measure`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline import model_files
from pipeline.command_options import Host, Json, Out, Settings, Target
from pipeline.errors import ExitCode
from pipeline.output import show
from pipeline.progress import Progress


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
    report = model_files.prune(model, data, out, metric, chosen, Progress())
    decisions = [LayerDecision.model_validate(each) for each in report["decisions"]]
    words = (
        f"{metric} {report['metric_before']:.4f} before, {report['metric_after']:.4f} after; written to {out}"
    )
    show(report, as_json, terminal.decisions_table(decisions), words)


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
    wanted = model_files.Conversion(precision, io, rewrites, data)
    report = model_files.convert(model, out, target, wanted, Progress())
    lines = [f"rewritten: {name}, {count} times" for name, count in report["rewrites"].items()]
    lines += [
        f"{each['operator']} {each['tensor']}: {each['encoding']}; {each['reason']}"
        for each in report["encodings"]
    ]
    show(report, as_json, *lines, f"{report['bytes']:,} bytes written to {out}")


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

    report = model_files.lint(model, target, runtime, core)
    show(report.model_dump(mode="json"), as_json, terminal.lint_tables(report))
    if report.bad:
        raise typer.Exit(ExitCode.GATE)


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

    report = model_files.rewrite(model, out, only or [], Progress())
    lines = [f"{rewrites.load(name).SENTENCE}: {count}" for name, count in report["rewrites"].items()]
    difference = f"{report['agreement']['greatest_difference']:.2g} of the greatest output"
    written = (
        f"{report['bytes']:,} bytes written to {out}; its answers differ by {difference} on this machine"
    )
    show(report, as_json, *lines, written)


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
    report = model_files.measure(model, target, host, chosen, Progress())
    ran = Operators.model_validate(report["operators"])
    show(report, as_json, *_measured(report), terminal.operators(ran))
    if report["validity"]["state"] == "invalid":
        raise typer.Exit(ExitCode.DEVICE)


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

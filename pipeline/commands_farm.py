"""`edgepipe nightly`, `edgepipe baseline` and `edgepipe farm`: a farm's night, what it is held against, how its devices
fare."""

from __future__ import annotations

import contextlib
import getpass
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.command_options import HistoryUrl, Json
from pipeline.errors import UserError
from pipeline.output import show
from pipeline.progress import Progress

if TYPE_CHECKING:
    from pipeline.farm.leases import Leases
    from pipeline.farm.night import Night
    from pipeline.farm.nightly import Nightly
    from pipeline.farm.notify import Webhook

baseline = typer.Typer(
    help="What a night's candidates are held against: accept a file, list what was accepted.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
farm = typer.Typer(
    help="The devices of a farm: who has them, which are put aside, what waits for them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
RUNS = Path("runs")
LATEST = "latest-night"
# What the nightly file and the history take.
LONGEST_OWNER = 128


def nightly(
    file: Annotated[Path, typer.Argument(help="The nightly file.")] = Path("nightly.yaml"),
    url: HistoryUrl = "",
    as_json: Json = False,
) -> None:
    """Measure plans on targets beside their baselines, and judge. Exit code 0 is green; 1 an alarm, or missing data."""
    from pipeline import commands
    from pipeline.farm import nightly_file
    from pipeline.farm.nightly import Nightly
    from pipeline.reports import night_summary

    read, progress = nightly_file.read(file), Progress()
    caps = [entry.plan.store.max_mebibytes for entry in read.entries.values()]
    with commands.cache_of(max(caps)) as cache:
        night = Nightly(read, cache, RUNS, url or None, progress)
        try:
            found = night.run()
            _write(found, night.folder, url, progress)
        except Exception as error:
            _tell_aborted(night, error, progress)
            raise
    tell(found, read.says.notify, progress)
    _publish(found, night.folder, url, progress)
    where = f"{RUNS / found.id}: dashboard.html, summary.txt, night.json, junit.xml"
    show(found.model_dump(mode="json"), as_json, night_summary.summary(found), where)
    raise typer.Exit(found.exit_code)


def _write(found: Night, folder: Path, url: str, progress: Progress) -> None:
    """The night's documents, `runs/latest-night`, and the history."""
    from pipeline import atomic
    from pipeline.farm import attendance, night
    from pipeline.reports import junit, night_summary

    night.save(found, folder)
    atomic.write(folder / "junit.xml", junit.render(found))
    atomic.write(folder / "summary.txt", night_summary.as_text(found).encode(errors="replace"))
    atomic.point(RUNS / LATEST, found.id)
    try:
        attendance.remember(found, url or None)
    except UserError as error:
        progress.line(f"not in the history: {error}")


def tell(found: Night, webhooks: Sequence[Webhook], progress: Progress) -> None:
    """Whoever is to know. What goes wrong is told, and changes nothing."""
    from pipeline.farm.notify import notify
    from pipeline.reports import notification

    for webhook in webhooks:
        if found.exit_code or webhook.when == "always":
            progress.line(notify(webhook, notification.body(found, webhook.form)))


def _tell_aborted(night: Nightly, error: Exception, progress: Progress) -> None:
    """That a night has no verdicts is not to be noticed by nobody."""
    from pipeline.farm.notify import notify
    from pipeline.reports import notification

    said = str(error) or type(error).__name__
    for webhook in night.file.says.notify:
        body = notification.aborted(night.id, night.file.says.name, night.created, said, webhook.form)
        progress.line(notify(webhook, body))


def _publish(found: Night, folder: Path, url: str, progress: Progress) -> None:
    """The night's page; without the history there is none."""
    from pipeline.commands_dashboard import publish

    try:
        publish(found, folder, url or None)
    except UserError as error:
        progress.line(f"no dashboard: {error}\nlater: edgepipe dashboard {folder}")


@baseline.command("accept")
def accept(
    run: Annotated[Path, typer.Argument(help="A night's or a deploy's folder: runs/latest-night.")],
    reason: Annotated[str, typer.Option("--reason", help="Why this is what later nights are held against.")],
    file: Annotated[Path, typer.Option("--file", "-f", help="The nightly file.")] = Path("nightly.yaml"),
    plan: Annotated[str, typer.Option("--plan", help="Only of the plan of this name.")] = "",
    target: Annotated[str, typer.Option("--target", "-t", help="Only of this target.")] = "",
    owner: Annotated[str, typer.Option("--owner", help="Who stands for it; you, if not given.")] = "",
    url: HistoryUrl = "",
    as_json: Json = False,
) -> None:
    """Make what a run measured the baseline: its digests go into the nightly file, the reason into the history."""
    from pipeline import commands
    from pipeline.farm import nightly_file, pins

    if not reason.strip():
        raise UserError("--reason: expected a sentence, received nothing")
    who = _owner(owner)
    read = nightly_file.read(file)
    chosen = [
        each for each in pins.candidates(run, read) if plan in ("", each.plan) and target in ("", each.target)
    ]
    if not chosen:
        raise UserError(f"{run}: has nothing of plan {plan or '(any)'} on target {target or '(any)'}")
    known = read.says.baselines
    with commands.store().in_use() as cache:
        # Also what was accepted before: on another machine, perhaps, or before there was a folder for it.
        pins.keep(chosen, run, read, cache)
        chosen = [
            each for each in chosen if each.series not in known or known[each.series].digest != each.digest
        ]
        if chosen:
            pins.accept(chosen, run, read, who, reason.strip(), cache, url or None)
    lines = [f"{each.series}: {each.digest[:12]} of run {each.run}, accepted by {who}" for each in chosen]
    told = [
        {"plan": each.plan, "target": each.target, "run": each.run, "digest": each.digest} for each in chosen
    ]
    lines.append(f"written into {file}, to be kept with your sources")
    show(told, as_json, *(lines if chosen else ["nothing new: these files are the baselines already"]))


def _owner(given: str) -> str:
    """Who stands for a baseline. Raises `UserError`."""
    try:
        who = given.strip() or getpass.getuser()
    except (OSError, KeyError, ImportError):
        raise UserError(
            "--owner: missing, and this machine does not know who you are; name yourself"
        ) from None
    if len(who) > LONGEST_OWNER:
        raise UserError(f"--owner: expected {LONGEST_OWNER} characters at most, received {len(who)}")
    return who


@baseline.command("list")
def list_accepted(url: HistoryUrl = "", as_json: Json = False) -> None:
    """Say what was accepted when, by whom and why, the newest last."""
    from pipeline.farm import pins
    from pipeline.reports import notation

    found = pins.accepted(url or None)
    lines = [
        f"{notation.instant(row['at'])}  {row['plan']}/{row['target']}  {row['digest'][:12]}  "
        f"{row['owner']}: {row['reason']}"
        for row in found
    ]
    show(found, as_json, *lines or ["nothing was accepted yet"])


@farm.command("status")
def farm_status(
    device: Annotated[str, typer.Option("--device", help="Only of this device, or target.")] = "",
    last: Annotated[int, typer.Option("--last", min=0, help="At most so many events, the newest.")] = 20,
    url: HistoryUrl = "",
    as_json: Json = False,
) -> None:
    """Say who has which device, which are put aside and why, what waits for each, and what happened last."""
    from pipeline.farm import overview
    from pipeline.reports import farm_status as tables

    with _farm(url) as leases:
        found = overview.document(leases, last, _device(leases, device) if device else "")
    nothing = "no device was ever lent, or none of this name"
    show(found, as_json, *(tables.tables(found) if found["devices"] else [nothing]))


@farm.command("restore")
def farm_restore(
    device: Annotated[str, typer.Argument(help="A target, or a device as edgepipe farm status names it.")],
    url: HistoryUrl = "",
    as_json: Json = False,
) -> None:
    """Hold nothing against a device any more that was put aside: it is tried again within seconds."""
    from pipeline.farm import overview

    with _farm(url) as leases:
        device = _device(leases, device)
        restored = overview.restore(leases, device)
    said = "is tried again within seconds" if restored else "nothing was held against it"
    show({"device": device, "restored": restored}, as_json, f"{device}: {said}")


@contextlib.contextmanager
def _farm(url: str) -> Iterator[Leases]:
    from pipeline.farm.leases import Leases, open_farm

    with contextlib.closing(open_farm(url or None)) as database:
        yield Leases(database)


def _device(leases: Leases, name: str) -> str:
    """A device by its own name, or by a target's."""
    from pipeline import locate
    from pipeline.farm import overview
    from targets.target import device_of

    return name if name in overview.known(leases) else device_of(locate.read_target(name))

"""`edgepipe targets`: which there are, a new one, and whether one is fit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline import atomic, locate
from pipeline.command_options import Json
from pipeline.errors import ExitCode, UserError
from pipeline.output import show
from pipeline.progress import Progress
from targets.checkup import Finding, check_up
from targets.errors import TargetError
from targets.newcomer import Newcomer, describe, meet
from targets.transports import Transport

ADB = "adb:"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")

targets = typer.Typer(help="Where models go: list, add, check.", rich_markup_mode=None)


@targets.callback(invoke_without_command=True)
def list_targets(context: typer.Context, as_json: Json = False) -> None:
    """Say which targets there are: your own, in ./targets, and those that came with edgepipe."""
    if context.invoked_subcommand is None:
        rows = [_about(name, path) for name, path in locate.target_files().items()]
        columns = ("name", "transport", "runtime", "core", "description")
        show(rows, as_json, _table(columns, [[str(row[key]) for key in columns] for row in rows]))


def _about(name: str, path: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "file": str(path)}
    try:
        found = locate.read_target(str(path))
    except UserError as error:
        return {**row, "transport": "?", "runtime": "?", "core": "?", "description": error.problems[0]}
    core = found.core or ("this machine's" if found.transport == "local" else "not known")
    described = {"transport": found.transport, "runtime": found.runtime, "core": core}
    return {**row, **described, "description": found.description}


@targets.command("add")
def add(
    name: Annotated[str, typer.Argument(help="What to call it: targets/NAME.yaml is written.")],
    host: Annotated[
        str,
        typer.Argument(
            help="[user@]host[:port], or a Host of ~/.ssh/config; a phone: adb:SERIAL, or adb:HOST:PORT/SERIAL."
        ),
    ],
    accept_host_key: Annotated[
        str,
        typer.Option("--accept-host-key", help="Its key's fingerprint, SHA256:..., as the device shows it."),
    ] = "",
    key_file: Annotated[
        str | None, typer.Option("--key-file", help="The private key that lets you in.")
    ] = None,
    jump: Annotated[str | None, typer.Option("--jump", help="[user@]host[:port] to go through.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Ask a device what it is, and write its target file: its host key pinned in it, or a phone's serial number."""
    path = Path("targets", f"{name}.yaml")
    if not NAME.fullmatch(name):
        raise UserError(f"{name!r}: expected a name of letters, digits, - and _")
    if path.exists() and not force:
        raise UserError(f"{path}: is there already; name another target, or write over it with --force")
    text, found = _met(name, host, accept_host_key, key_file, jump)
    atomic.write(path, text.encode())
    show({"name": name, "file": str(path), **found}, as_json, f"{path}: {found['description']}", *_next(name))


def _next(name: str) -> list[str]:
    return [f"next: edgepipe targets check {name}; edgepipe deploy --target {name}"]


def _met(
    name: str, host: str, accepted: str, key_file: str | None, jump: str | None
) -> tuple[str, dict[str, Any]]:
    """The text of the target file, and what the device said."""
    from targets.ssh_login import host_key_of
    from targets.ssh_options import jump_host
    from targets.transports import ssh

    if host.startswith(ADB):
        if accepted or key_file or jump:
            raise UserError(f"{host}: --accept-host-key, --key-file and --jump are for SSH")
        return _met_phone(name, host.removeprefix(ADB))
    options = jump_host(host, key_file=key_file, proxy_jump=jump)
    key, known = host_key_of(options)
    if not known:
        _accept(key.fingerprint, accepted, host)
    if not key.certified:
        options = options.model_copy(update={"host_key": key.line})
    newcomer = _asked(name, lambda: ssh.connect(options))
    return describe(name, options, newcomer), {**_told(newcomer), "host_key": options.host_key}


def _met_phone(name: str, phone: str) -> tuple[str, dict[str, Any]]:
    """The same of a phone, `[HOST:PORT/]SERIAL`: the adb server where it is not here, and which of its phones."""
    from pydantic import ValidationError

    from targets.adb_phone import find_phone
    from targets.transports import adb

    server, _, serial = phone.rpartition("/")
    try:
        options = adb.Options(serial=serial or None, server=server or None)
    except ValidationError as error:
        raise UserError(
            f"{ADB}{phone}: expected adb:SERIAL or adb:HOST:PORT/SERIAL; {error.errors()[0]['msg']}"
        ) from None
    # That the only phone was meant is true today.
    options = options.model_copy(update={"serial": find_phone(options)})
    newcomer = _asked(name, lambda: adb.connect(options))
    return describe(name, options, newcomer), {**_told(newcomer), "serial": options.serial}


def _asked(name: str, connect: Callable[[], Transport]) -> Newcomer:
    """What a device said of itself."""
    with Progress().step(f"{name}: ask what it is") as say:
        transport = connect()
        try:
            newcomer = meet(transport)
        finally:
            transport.close()
        say(newcomer.probe.sentence)
    return newcomer


def _told(newcomer: Newcomer) -> dict[str, Any]:
    return {"description": newcomer.model, "core": newcomer.probe.core, "runtime": newcomer.runtime}


def _accept(fingerprint: str, accepted: str, host: str) -> None:
    """Return when somebody says that the fingerprint is the device's own; never by itself."""
    from targets import questions

    where = "it shows the same with: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"
    if accepted == fingerprint:
        return
    if accepted:
        raise TargetError(
            f"{host} shows the host key {fingerprint}, and not {accepted}", "another machine may be answering"
        )
    if not questions.somebody_is_there():
        raise TargetError(
            f"the host key of {host} is unknown: {fingerprint}",
            f"if the device is right, {where}. Then add: --accept-host-key {fingerprint}",
        )
    question = (
        f"{host} shows the host key {fingerprint}\nif the device is right, {where}\nis it the same? (yes/no) "
    )
    if questions.ask(question).lower() != "yes":
        raise TargetError(f"the host key of {host} was not accepted", "nothing was written")


@targets.command("check")
def check(
    name: Annotated[str, typer.Argument(help="A target's name: rpi4 is targets/rpi4.yaml.")],
    host: Annotated[
        str, typer.Option("--host", help="[user@]host[:port], instead of the target's own.")
    ] = "",
    as_json: Json = False,
) -> None:
    """See whether a device is fit: reachable, the right one, Python, runtime, room. Exit code 3: it is not."""
    with Progress().step(f"{name}: check"):
        findings = check_up(locate.read_target(name, host=host))
    good = all(each.ok for each in findings)
    show(
        {"target": name, "ok": good, "findings": [asdict(each) for each in findings]},
        as_json,
        findings_table(findings),
    )
    if not good:
        raise typer.Exit(ExitCode.DEVICE)


def findings_table(findings: list[Finding]) -> Any:
    """A row a finding; what to do stands below what fails."""
    rows = [
        [each.what, "good" if each.ok else "FAILED", "\n".join(filter(None, (each.answer, each.remedy)))]
        for each in findings
    ]
    return _table(("what", "result", "answer"), rows)


def _table(columns: tuple[str, ...], rows: list[list[str]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column != columns[-1])
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def accept(
    target: Annotated[
        str, typer.Option("--target", "-t", help="A target's name: rpi4 is targets/rpi4.yaml.")
    ],
    host: Annotated[
        str, typer.Option("--host", help="[user@]host[:port], instead of the target's own.")
    ] = "",
    plan: Annotated[str, typer.Option("--plan", help="The plan that is deployed.")] = "pipeline.yaml",
    as_json: Json = False,
) -> None:
    """Try on a device everything that is promised of it: host key, deploy, install, cuts. Exit code 3: it failed."""
    from pipeline import acceptance, commands

    read, folder, found = commands.read_all(plan, [], [target], host)
    trial = acceptance.Trial(target, found[target], read, folder, Progress())
    findings = acceptance.run(trial)
    good = all(each.ok for each in findings)
    document = {
        "target": target,
        "emulated": trial.target.emulated,
        "ok": good,
        "run": trial.result and trial.result.id,
        "findings": [asdict(each) for each in findings],
    }
    path = Path("runs", f"acceptance-{target}.json")
    atomic.write(path, json.dumps(document, indent=1).encode())
    label = " (EMULATED: no figure of the real device)" if trial.target.emulated else ""
    verdict = f"{target}{label}: {'accepted' if good else 'NOT accepted'}; written to {path}"
    show(document, as_json, findings_table(findings), verdict)
    if not good:
        raise typer.Exit(ExitCode.DEVICE)

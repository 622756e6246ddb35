"""`edgepipe devices`: emulated devices, brought up and down."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from pipeline.command_options import Json
from pipeline.errors import UserError
from pipeline.output import show
from pipeline.progress import Progress

devices = typer.Typer(
    help="Emulated devices: bring them up and down.", no_args_is_help=True, rich_markup_mode=None
)


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

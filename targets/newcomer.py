"""A device that nobody has described yet: what it is, and the file in `targets/` that says so."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from targets import adb_server, ssh_options
from targets.errors import TargetError
from targets.probe import Probe, probe
from targets.provisioning.runtimes import choose
from targets.transports import Transport

# What our emulated devices have in their model's name.
EMULATED = "(emulated)"
_SHORT_S = 30.0
# A device tree's model ends with a NUL; of PCs the firmware knows one.
_MODELS = (
    "/proc/device-tree/model",
    "/sys/firmware/devicetree/base/model",
    "/sys/devices/virtual/dmi/id/product_name",
)
_TEMPLATE = """\
# Written by `edgepipe targets add {name}`, which asked the device. It says of itself: {sentence}.
description: {description}
{way}# x86 | arm (Cortex-A53, A72) | arm-fp16 (with half-precision arithmetic: Cortex-A55, A76); null: not known
core: {core}
# {reason}
runtime: {runtime}  # auto | tflite-runtime | ai-edge-litert
threads: 1  # threads of the interpreter
"""
_SSH = """\
transport: ssh
ssh:
  host: {host}  # or a Host of ~/.ssh/config, which also answers for each null below
  port: {port}
  user: {user}
  key_file: {key_file}  # null: the ssh agent, IdentityFile, and the usual files in ~/.ssh
  known_hosts: null  # null: ~/.ssh/known_hosts; not read while host_key pins the key
  # {recognised}
  host_key: {host_key}
  proxy_jump: {proxy_jump}  # [user@]host[:port], several separated by commas, or none
  connect_timeout_s: null  # null: 10; for each server on the way
  keepalive_s: null  # null: 15; a network that is silent for three times as long is lost
python: python3  # 3.9 or later; nothing is installed into it
"""
_SSH_PLACES = """\
workdir: .cache/edgepipe  # relative: to the login folder
install_path: edgepipe/model  # the winner: current/model.tflite and current/manifest.json
emulated: {emulated}
when_unreachable: is the device on, and its address still the same?
"""
_ADB = """\
transport: adb
adb:
  serial: {serial}  # of `adb devices`, or ADDRESS:PORT; null: $ANDROID_SERIAL, else the only phone
  server: {server}  # HOST:PORT of the adb server; null: as adb finds it, or 127.0.0.1:5037
  client: adb  # starts the server where none runs on this machine
  folder: {folder}  # relative paths begin here; Android lets adb run programs in /data/local/tmp only
  connect_timeout_s: 10
python: null  # null: python3
"""
_ADB_PLACES = """\
workdir: edgepipe
install_path: edgepipe-model  # the winner: current/model.tflite and current/manifest.json
emulated: {emulated}
when_unreachable: does `adb devices` show the phone as `device`?
"""


@dataclass(frozen=True)
class Newcomer:
    """What a device said of itself; `runtime` is the one chosen for it, `reason` why."""

    model: str
    probe: Probe
    runtime: str
    reason: str


def meet(transport: Transport, python: str = "python3") -> Newcomer:
    """Ask a device what it is. Nothing is left on it. Raises `TargetError` when no runtime would fit it."""
    found = probe(transport, python, "")
    told = _read(transport, *_MODELS, "/proc/cpuinfo")
    named = re.findall(r"^Model\s*:(.*)$", told[-1], re.MULTILINE)
    model = next((line for text in [*told[: len(_MODELS)], *named] if (line := _printable(text))), "")
    runtime, reason = _runtime(found)
    model = model or _phone(transport) or f"{found.architecture} {found.system}"
    return Newcomer(model, found, runtime, reason)


def _phone(transport: Transport) -> str:
    """The maker and model of an Android phone; empty where nobody knows such properties."""
    told = [
        transport.run(["getprop", f"ro.product.{name}"], deadline_s=_SHORT_S)
        for name in ("manufacturer", "model")
    ]
    return _printable(" ".join(each.stdout.decode(errors="replace") for each in told if not each.returncode))


def _read(transport: Transport, *paths: str) -> list[str]:
    """What stands in each file; empty where it cannot be read. One round trip."""
    mark = "edgepipe-next-file"
    script = f'for file in "$@"; do [ -r "$file" ] && cat "$file"; echo; echo {mark}; done'
    done = transport.run(["sh", "-c", script, "sh", *paths], deadline_s=_SHORT_S)
    texts = done.stdout.decode(errors="replace").split(f"\n{mark}\n")
    if done.returncode or len(texts) != len(paths) + 1:
        raise TargetError("the device's shell did not answer", "expected a POSIX shell")
    return texts[:-1]


def _printable(text: str) -> str:
    return " ".join(re.sub(r"[^\x20-\x7e]", " ", text).split())[:80]


def _runtime(found: Probe) -> tuple[str, str]:
    """ai-edge-litert where it fits: its sparse kernels run on all Arm cores, tflite-runtime's only on arm-fp16."""
    if found.python is None:
        return "auto", f"{found.python_problem}: one is sent along with the runtime"
    try:
        name = choose("ai-edge-litert", found).name
    except TargetError as misfit:
        name = choose("tflite-runtime", found).name
        lost = "" if found.core == "arm-fp16" else "; its convolutions never run sparse on such cores"
        return name, f"{misfit.message.rpartition(': ')[2]}: so tflite-runtime{lost}"
    return name, "the newer one, whose sparse kernels run on every Arm core"


def describe(name: str, options: ssh_options.Options | adb_server.Options, newcomer: Newcomer) -> str:
    """The target file of a device that is reached by `options`; a pinned `host_key` is written down."""
    values = {
        "name": name,
        "sentence": newcomer.probe.sentence,
        "description": json.dumps(newcomer.model),
        "core": newcomer.probe.core or "null",
        "emulated": json.dumps(EMULATED in newcomer.model),
        "reason": newcomer.reason,
        "runtime": newcomer.runtime,
        **{key: json.dumps(value) for key, value in options.model_dump(mode="json").items()},
    }
    if isinstance(options, adb_server.Options):
        return _TEMPLATE.format(way=_ADB.format(**values), **values) + _ADB_PLACES.format(**values)
    values["recognised"] = (
        "pinned: a device that shows another key is refused"
        if options.host_key
        else 'the host certificate is checked; or pin a key: "ssh-ed25519 AAAA..."'
    )
    return _TEMPLATE.format(way=_SSH.format(**values), **values) + _SSH_PLACES.format(**values)

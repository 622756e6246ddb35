"""Ways of provisioning, one contract over all; the portable Python; and glibc without the calls that kill."""

from __future__ import annotations

import struct
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from targets import provisioning
from targets.device import Device
from targets.errors import TargetError
from targets.probe import Probe
from targets.provisioning import glibc, portable, trial
from targets.provisioning.runtimes import RUNTIMES
from targets.target import TargetBase, target_model
from targets.transports import Completed, local
from tests import android_sandbox
from tests.requirements_for_tests import skip_or_fail
from tests.tflite_files import matrix_file


def target_of(folder: Path, **fields: Any) -> TargetBase:
    common = {
        "transport": "local",
        "local": {},
        "workdir": str(folder / "work dir"),
        "install_path": str(folder / "i"),
    }
    return target_model().model_validate(common | fields)


def phone(**changes: Any) -> Probe:
    fields: dict[str, Any] = dict(
        python_problem="no Python", machine="aarch64", bits=64, system="linux", libc=("bionic", "")
    )
    return Probe(**(fields | changes))


PI = dict(python=(3, 11, 2), python_problem="", implementation="cpython", libc=("glibc", "2.36"))


@pytest.mark.parametrize(
    ("changes", "way"),
    [
        (PI, "bundle"),
        ({}, "portable"),
        (PI | {"libc": ("musl", "")}, "portable"),
        (PI | {"python": (3, 13, 1), "bits": 32}, "portable"),
        (PI | {"machine": "riscv64", "runtimes": {"ai-edge-litert": "2.1.0"}}, "system"),
    ],
)
def test_auto_takes_the_first_that_fits_and_says_why(
    changes: dict[str, Any], way: str, tmp_path: Path
) -> None:
    chosen, reason = provisioning.choose(target_of(tmp_path), phone(**changes))
    assert chosen == way and reason


def test_on_trixie_auto_takes_litert_and_tflite_runtime_brings_its_own_python(tmp_path: Path) -> None:
    trixie = phone(**PI | {"python": (3, 13, 5), "libc": ("glibc", "2.41")})
    chosen, reason = provisioning.choose(target_of(tmp_path), trixie)
    assert chosen == "bundle" and "tflite-runtime is built for CPython 3.9, 3.10, 3.11" in reason
    assert provisioning.runtime_of(target_of(tmp_path), trixie) == "ai-edge-litert"
    older = target_of(tmp_path, runtime="tflite-runtime")
    chosen, reason = provisioning.choose(older, trixie)
    assert chosen == "portable" and "the device has cpython 3.13" in reason
    assert provisioning.runtime_of(older, trixie) == "tflite-runtime"


@pytest.mark.parametrize(
    ("provision", "changes", "reason"),
    [
        ("bundle", {}, "no Python"),
        ("system", {}, "no Python"),
        ("system", PI, "its Python has no tflite-runtime or ai-edge-litert"),
        ("portable", {"machine": "riscv64"}, "the device's kernel is riscv64"),
        ("portable", {"system": "darwin"}, "the device has darwin"),
        ("auto", {"machine": "mips"}, "no bundle: .* no portable: .* no system"),
    ],
)
def test_what_does_not_fit_is_refused(
    provision: str, changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(TargetError, match=reason):
        provisioning.choose(target_of(tmp_path, provision=provision), phone(**changes))


def answers(device: Device, provisioned: provisioning.Provisioned, folder: Path) -> Any:
    """What a model of ones answers there to an input of four ones."""
    np.save(folder / "inputs.npy", np.ones((1, 4), np.float32))
    (folder / "model.tflite").write_bytes(matrix_file(np.ones((3, 4), np.float32), at="dense"))
    device.ask(
        "measure",
        lock=device.lock,
        bundle=provisioned.folder,
        runtime=provisioned.runtime,
        threads=2,
        variants={"one": str(folder / "model.tflite")},
        inputs=str(folder / "inputs.npy"),
        steps=[{"kind": "evaluate", "variant": "one", "outputs": str(folder / "out.npy")}],
        protocol={},
        step_deadline_s=60,
    )
    return np.load(folder / "out.npy").tolist()


def python_with_a_runtime(folder: Path) -> Path:
    """A Python that has a runtime of its own, as a device's may: this one, which finds one that was brought to it."""
    device = Device("here", target_of(folder, provision="bundle"), local.connect(local.Options()))
    try:
        brought = device.provision(lambda text: None).folder
    except TargetError as error:
        skip_or_fail(str(error))
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{brought}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return python


@pytest.mark.parametrize("way", provisioning.WAYS)
def test_whatever_the_way_a_model_answers(way: str, tmp_path: Path, home: Path) -> None:
    own = {"python": str(python_with_a_runtime(tmp_path))} if way == "system" else {}
    device = Device("here", target_of(tmp_path, provision=way, **own), local.connect(local.Options()))
    said: list[str] = []
    try:
        provisioned = device.provision(said.append)
    except TargetError as error:
        skip_or_fail(str(error))
    assert provisioned.way == way and f"provision: {way}" in said[0]
    said.clear()
    assert device.provision(said.append) == provisioned
    assert len(said) == 1 or way == "system", "what is there does not travel again"
    assert answers(device, provisioned, tmp_path) == [[4, 4, 4]]


def test_a_runtime_of_the_device_that_cannot_be_imported_is_refused(tmp_path: Path, home: Path) -> None:
    python = python_with_a_runtime(tmp_path)
    [package] = (tmp_path / "work dir" / "bundles").glob("*/tflite_runtime/__init__.py")
    package.write_text("raise ImportError('libatomic.so.1 is missing')\n")
    target = target_of(tmp_path, provision="system", python=str(python))
    device = Device("here", target, local.connect(local.Options()))
    with pytest.raises(TargetError, match=r"tflite-runtime cannot be imported: libatomic\.so\.1 is missing"):
        device.provision(lambda text: None)


def test_a_portable_that_was_damaged_is_sent_again(tmp_path: Path, home: Path) -> None:
    device = Device("here", target_of(tmp_path, provision="portable"), local.connect(local.Options()))
    try:
        sent = device.provision(lambda text: None)
    except TargetError as error:
        skip_or_fail(str(error))
    said: list[str] = []
    Path(sent.python[0]).write_bytes(b"no loader")
    device.provision(said.append)
    assert "sending Python" in said[1]
    assert [path.name for path in (tmp_path / "work dir" / "bundles").iterdir()] == [
        Path(sent.python[0]).parent.name
    ]


class SandboxedTransport(local.LocalTransport):
    """This machine; the portable is started inside Android's app sandbox, which may be made stricter."""

    def __init__(self, *without: str) -> None:
        super().__init__()
        self._sandbox = [sys.executable, android_sandbox.__file__, *without]

    def run(self, argv: Sequence[str], **how: Any) -> Completed:
        at = next((at for at, word in enumerate(argv) if word.endswith("/ld.so")), len(argv))
        return super().run([*argv[:at], *(self._sandbox if argv[at:] else []), *argv[at:]], **how)


def sandboxed(folder: Path, *without: str) -> Device:
    if reason := android_sandbox.unusable():
        pytest.skip(reason)
    return Device("phone", target_of(folder, provision="portable"), SandboxedTransport(*without))


def sent_to(device: Device) -> provisioning.Provisioned:
    """What it got; only what is wrong with this machine ends in a skip."""
    try:
        portable.build_portable(RUNTIMES[0], portable.inside("x86_64"), print)
    except TargetError as error:
        skip_or_fail(str(error))
    return device.provision(lambda text: None)


def test_a_portable_measures_inside_androids_sandbox(tmp_path: Path, home: Path) -> None:
    device = sandboxed(tmp_path)
    assert answers(device, sent_to(device), tmp_path) == [[4, 4, 4]]


def test_a_sandbox_that_forbids_more_is_refused_with_the_way_out(tmp_path: Path, home: Path) -> None:
    device = sandboxed(tmp_path, "--without", "sched_getaffinity")
    with pytest.raises(TargetError, match="its process was ended for a system call") as refused:
        sent_to(device)
    assert "transport: adb" in refused.value.remedy
    assert not [path for path in (tmp_path / "work dir" / "bundles").iterdir() if path.is_dir()]


def test_a_python_that_a_sandbox_does_not_let_start_is_told_from_one_that_is_broken(tmp_path: Path) -> None:
    if reason := android_sandbox.unusable():
        pytest.skip(reason)
    device = Device("here", target_of(tmp_path), local.connect(local.Options()))
    trial.refuse_forbidden(device, ("false",))
    with pytest.raises(TargetError, match="SIGSYS"):
        trial.refuse_forbidden(device, (sys.executable, android_sandbox.__file__, sys.executable))


def test_a_portable_takes_35_mb_at_most(home: Path) -> None:
    try:
        built = portable.build_portable(RUNTIMES[-1], portable.inside("x86_64"), print)
    except TargetError as error:
        skip_or_fail(str(error))
    assert built.archive.stat().st_size < 35e6
    with tarfile.open(built.archive) as archive:
        assert {"ld.so", "bin/python3.11", "lib/libc.so.6"} <= set(archive.getnames())


MOV_X8, MOV_W8, MOV_X0, SVC, NOP, BL = 0xD2800008, 0x52800008, 0xD2800000, 0xD4000001, 0xD503201F, 0x94000000


def code(*words: int) -> bytes:
    """An ELF file of arm64 as far as it is looked at: its head, then these instructions."""
    return b"\x7fELF".ljust(18, b"\0") + struct.pack("<H", 183) + struct.pack(f"<{len(words)}I", *words)


def test_on_x86_too_a_call_that_kills_becomes_one_that_is_missing() -> None:
    head = b"\x7fELF".ljust(18, b"\0") + b"\x3e\0"
    rseq, mbind, read = (struct.pack("<BI", *load) for load in ((0xB8, 334), (0xBF, 237), (0xB8, 0)))
    between, syscall, call = b"\x48\x89\xdf", b"\x0f\x05", b"\xe8\x0a\xad\xdb\xff"
    before = head + rseq + between + syscall + read + syscall + mbind + b"\x31\xc0" + call + call
    after = head + struct.pack("<Bi", 0xB8, -38) + between + b"\x48\x98" + read + syscall
    after += mbind + b"\x31\xc0" + struct.pack("<Bi", 0xB8, -1) + call
    assert glibc.without_system_calls(before) == after


def test_a_call_that_kills_becomes_one_that_is_missing_and_no_other_changes() -> None:
    robust, read = MOV_X8 | 99 << 5, MOV_W8 | 63 << 5
    before = (robust, NOP, SVC, read, SVC, MOV_X0 | 235 << 5, NOP, BL, BL)
    after = (robust, NOP, 0x928004A0, read, SVC, MOV_X0 | 235 << 5, NOP, 0x92800000, BL)
    assert glibc.without_system_calls(code(*before)) == code(*after)


@pytest.mark.parametrize("content", [b"", b"\x7fELF".ljust(18, b"\0") + b"\x3e\0", b"text"])
def test_what_is_no_library_stays(content: bytes) -> None:
    assert glibc.without_system_calls(content) == content

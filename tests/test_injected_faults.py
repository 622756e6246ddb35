"""Faults put into real sessions of the real agent, once each: marked, with the right reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks._measure_faults import FAULTS, HOGGED, a_core, hog, judged
from benchmarks._measure_made_up import believed, measured
from benchmarks._measure_sessions import short, this_machine
from device_agents.timing import waited_ns
from pipeline.plan import ControlsSection
from targets.device import Device

WORKING = "for _ in range(100_000): pass"


@pytest.fixture
def device(home: Path) -> Iterator[Device]:
    with this_machine() as found:
        yield found


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_marked_with_its_reason(name: str, device: Device) -> None:
    fault, found = FAULTS[name], judged(device, FAULTS[name])
    assert any(fault.words in reason for reason in found.reasons), found
    assert found.state in (fault.state, "invalid")


@pytest.mark.skipif(waited_ns() is None, reason="this kernel does not count what a thread waits")
def test_a_program_on_the_same_core_is_marked(device: Device) -> None:
    with hog(a_core()):
        pinned = short(2, controls=ControlsSection(cores=[a_core()]))
        found = believed(measured(device, {"model": WORKING}, pinned), 2)
    # Invalid where it shows in the samples, which hangs on how the kernel slices time.
    assert found.state in ("suspect", "invalid")
    assert any(HOGGED in reason for reason in found.reasons), found
